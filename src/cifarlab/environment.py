"""What a result stands on: versions, hardware, command, the repositories' states, time."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("cifarlab", "torch", "torchvision", "timm", "numpy", "pillow", "albumentations")
# A hook of git runs with these set: they would name its repository, wherever a folder lies.
GIT_PLACES = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")


def describe_environment(hardware: dict[str, object]) -> dict[str, Any]:
    """Describe what a result stands on: versions, hardware, command, repositories, time.

    `git` is the state of the package's own repository, None where it is installed without one;
    `git_of_working_directory` that of the repository from which the command was given.
    """
    versions = {"python": sys.version.split()[0]}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "versions": versions,
        "hardware": hardware,
        "git": _git_state(Path(__file__).resolve()),
        "git_of_working_directory": _git_state(Path()),
    }


def _git_state(path: Path) -> dict[str, Any] | None:
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
        return {
            "commit": git(["git", "rev-parse", "HEAD"]).stdout.strip(),
            "dirty": bool(git(["git", "status", "--porcelain"]).stdout.strip()),
        }
    except (OSError, subprocess.SubprocessError):
        return None
