"""What a result stands on: versions, hardware, command, the repositories' states, time."""

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
# A hook of git runs with these set: they would name its repository, wherever a folder lies.
GIT_PLACES = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")


class GitState(Record):
    """The commit of a repository, and whether its files differ from it."""

    commit: str
    dirty: bool | None = None


class Environment(Record):
    """What a result stands on: the content of a run's `env.json`.

    Attributes:
        time: When the process began, in UTC.
        command: Its words.
        versions: Of Python and of packages, by name.
        hardware: As of `describe_hardware`.
        git: Of the package's own repository; None where it is installed without one.
        git_of_working_directory: Of the repository from which the command was given.
        name: Of the run; it may have several parts.
        recipes: The recipe's files, as `Recipe.files`.
        precision: The arithmetic.
        data_fingerprint: Of the data, by part.
        weights: What each file of weights gave to the model.
        notes: A line each, as `warnings`.
        earlier: The environments of earlier processes of the same run, first to last.
    """

    time: str = ""
    command: list[str] = Field(default_factory=list)
    versions: dict[str, str] = Field(default_factory=dict)
    hardware: dict[str, str | int | None] = Field(default_factory=dict)
    git: GitState | None = None
    git_of_working_directory: GitState | None = None
    name: str = ""
    recipes: list[dict[str, str]] = Field(default_factory=list)
    precision: str = ""
    data_fingerprint: dict[str, str] = Field(default_factory=dict)
    weights: list[dict[str, JsonValue]] = Field(default_factory=list)
    notes: list[str] = Field(default_factory=list)
    warnings: list[str] = Field(default_factory=list)
    earlier: list[dict[str, JsonValue]] = Field(default_factory=list)


def describe_environment(hardware: Mapping[str, str | int | None]) -> Environment:
    """Describe what a result stands on: versions, hardware, command, repositories, time."""
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
    """Return commit and cleanliness of a folder's repository; None without one.

    Of a file it is the repository that tracks it.
    """
    env = {key: value for key, value in os.environ.items() if key not in GIT_PLACES}
    git = partial(
        subprocess.run, cwd=path if path.is_dir() else path.parent, env=env,
        capture_output=True, text=True, timeout=10, check=True,
    )  # fmt: skip
    try:
        if not path.is_dir():  # A virtual environment may lie in a repository that knows nothing of it.
            git(["git", "ls-files", "--error-unmatch", path.name])
        return GitState(
            commit=git(["git", "rev-parse", "HEAD"]).stdout.strip(),
            dirty=bool(git(["git", "status", "--porcelain"]).stdout.strip()),
        )
    except (OSError, subprocess.SubprocessError):
        return None
