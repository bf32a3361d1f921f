"""A run's name: its one spelling, and what cannot be one."""

from __future__ import annotations

import posixpath
from pathlib import PurePosixPath

from cifarlab.registry import ConfigError

# What counts the openings of the test set lies beside the runs, and its lock.
LEDGER = "ledger.jsonl"
LEDGER_FILES = (LEDGER, "ledger.lock")


def spelled(name: str) -> str:
    """Return the one spelling of a name: `a/b` for `./a//b/`."""
    return posixpath.normpath(name)


def run_name(name: str) -> str:
    """Return the spelling of a run's name.

    Raises ConfigError for what cannot be one.
    """
    found = spelled(name)
    path = PurePosixPath(found)
    reason = None
    if not path.parts or path.is_absolute() or ".." in path.parts:
        reason = "give a name, not a path; --runs says where all runs lie"
    elif "=" in found or found.startswith("-") or path.suffix in (".yaml", ".yml"):
        reason = "commands take it for an override (=), an option (-) or a recipe's file (.yaml)"
    elif path.parts[0].lower() in LEDGER_FILES:
        reason = "the test set's ledger is called so"
    elif not name.isprintable() or max(map(len, path.parts)) > 200:
        reason = "too long, or not printable"
    if reason is not None:
        raise ConfigError(f"{name[:40]!r} cannot be a run's name (--name): {reason}")
    return found
