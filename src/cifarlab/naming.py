"""A run's name: its one spelling, and what cannot be one."""

from __future__ import annotations

import posixpath
from pathlib import PurePosixPath

from cifarlab.registry import ConfigError


def spelled(name: str) -> str:
    """The one spelling of a name: `a/b` for `./a//b/`."""
    return posixpath.normpath(name)


def run_name(name: str) -> str:
    """`spelled` for the name of a run. Raises ConfigError for what cannot be one."""
    found = spelled(name)
    path = PurePosixPath(found)
    reason = None
    if not path.parts or path.is_absolute() or ".." in path.parts:
        reason = "give a name, not a path; --runs says where all runs lie"
    elif not name.isprintable() or max(map(len, path.parts)) > 200:
        reason = "too long, or not printable"
    if reason is not None:
        raise ConfigError(f"{name[:40]!r} cannot be a run's name (--name): {reason}")
    return found
