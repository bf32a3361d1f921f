"""The environment in which a run was trained: versions, hardware, command, git state, time."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from pathlib import Path

from pydantic import Field, JsonValue

from cifarlab.core.records import Record

PACKAGES = ("cifarlab", "torch", "torchvision", "timm", "numpy", "pillow", "albumentations")
# Git sets these variables when it runs a hook. They would override the repository of the folder asked about.
GIT_PLACES = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")


class GitState(Record):
    """The state of a git repository.

    Attributes:
        commit: Full hash of the checked-out commit.
        dirty: Whether tracked files differ from the commit or untracked files exist. None if not recorded.
    """

    commit: str
    dirty: bool | None = None


class RecipeFile(Record):
    """Path and sha256 of a recipe's file, as in `Recipe.files`."""

    path: str
    sha256: str


class Environment(Record):
    """Environment of a run: the content of `env.json`.

    Attributes:
        time: Time at which the process began to train the run, in UTC (ISO 8601).
        command: The command line, `sys.argv`.
        versions: Versions of Python and of packages, by name.
        hardware: Result of `describe_hardware`.
        git: State of the repository that tracks this package's code. None if there is none.
        git_of_working_directory: State of the repository that holds the working folder. None if there is
            none.
        name: Name of the run. It may contain slashes, e.g. `a/b`.
        recipes: Files of the recipe, as in `Recipe.files`.
        precision: Autocast dtype of the training, e.g. `bfloat16`.
        data_fingerprint: For each part of the data set that was read (`train`, `val`, `test`), a hash of the
            pictures and labels in it.
        weights: For each weights file that was loaded, a `LoadReport` (cifarlab/models/weights.py) as a dict.
        notes: Notes on the run, one line each.
        warnings: Warnings about the run, one line each.
        earlier: If the run was resumed, environments of the processes that trained it before, oldest first.
    """

    time: str = ""
    command: list[str] = Field(default_factory=list)
    versions: dict[str, str] = Field(default_factory=dict)
    hardware: dict[str, str | int | None] = Field(default_factory=dict)
    git: GitState | None = None
    git_of_working_directory: GitState | None = None
    name: str = ""
    recipes: list[RecipeFile] = Field(default_factory=list)
    precision: str = ""
    data_fingerprint: dict[str, str] = Field(default_factory=dict)
    weights: list[dict[str, JsonValue]] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)
    warnings: list[str] = Field(default_factory=list)
    earlier: list[dict[str, JsonValue]] = Field(default_factory=list)


def describe_environment(hardware: Mapping[str, str | int | None]) -> Environment:
    """Describe this process: versions, hardware, command, repositories, time.

    The other fields keep their defaults.

    Args:
        hardware: Result of `describe_hardware`.
    """
    versions = {"python": sys.version.split()[0]}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return Environment(
        time=datetime.now(UTC).isoformat(timespec="seconds"),
        command=[*sys.argv],
        versions=versions,
        hardware={**hardware},
        git=_git_state(Path(__file__).resolve()),
        git_of_working_directory=_git_state(Path()),
    )


def _git_state(path: Path) -> GitState | None:
    """Return the state of the repository that holds a folder or file.

    None if there is no repository, or if it does not track the file.
    """
    env = {key: value for key, value in os.environ.items() if key not in GIT_PLACES}
    git = partial(
        subprocess.run, cwd=path if path.is_dir() else path.parent, env=env,
        capture_output=True, text=True, timeout=10, check=True,
    )  # fmt: skip
    try:
        if not path.is_dir():  # A virtual environment may lie in a repository that does not track it.
            git(["git", "ls-files", "--error-unmatch", path.name])
        return GitState(
            commit=git(["git", "rev-parse", "HEAD"]).stdout.strip(),
            dirty=bool(git(["git", "status", "--porcelain"]).stdout.strip()),
        )
    except (OSError, subprocess.SubprocessError):
        return None
