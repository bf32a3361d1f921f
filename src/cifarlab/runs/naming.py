"""Names of runs: normal form, validation, and list of the finished ones."""

from __future__ import annotations

import os
import posixpath
from pathlib import Path, PurePosixPath

from cifarlab.core.errors import ConfigError

# Files beside the runs that count the openings of the test set. No run may have such a name.
LEDGER = "ledger.jsonl"
LEDGER_FILES = (LEDGER, "ledger.lock")


def spelled(name: str) -> str:
    """Return the normal form of a name, e.g. `a/b` for `./a//b/`."""
    return posixpath.normpath(name)


def run_name(name: str) -> str:
    """Return the normal form of a run's name.

    Raises:
        ConfigError: The name is not allowed, e.g. because it is an absolute path.
    """
    found = spelled(name)
    path = PurePosixPath(found)
    reason = None
    if not path.parts or path.is_absolute() or ".." in path.parts:
        reason = "give a name, not a path; --runs is the folder of all runs"
    elif "=" in found or found.startswith("-") or path.suffix in (".yaml", ".yml"):
        reason = "commands would read it as an override (=), an option (-) or a recipe file (.yaml)"
    elif path.parts[0].lower() in LEDGER_FILES:
        reason = "the ledger of the test set has this name"
    elif not name.isprintable() or max(len(os.fsencode(part)) for part in path.parts) > 200:
        reason = "it is too long (more than 200 bytes in a part), or not printable"
    if reason is not None:
        raise ConfigError(f"{name[:40]!r} cannot be a run's name (--name): {reason}")
    return found


def finished_names(runs: Path) -> set[str]:
    """Return the names of the finished runs in the folder `runs`.

    A name is without the seed. It is in the result if a run of any seed is finished.
    """
    # A run's own folder, or that of its seeds, holds a summary, too, but no name.
    found = runs.glob("**/*/*/summary.json")
    return {path.parents[1].relative_to(runs).as_posix() for path in found}
