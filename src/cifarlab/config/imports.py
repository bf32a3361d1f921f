"""Importing parts: the package's own, and those of a user's files."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from cifarlab.core.errors import ConfigError
from cifarlab.core.random import label_key
from cifarlab.core.registry import FORGETTERS

# What was run of the files in `imports`, by the module's name.
_SOURCES: dict[str, bytes] = {}


def read_entries(value: Any) -> list[str]:
    """Return the entries of `imports`: one text, or a list. Raises ConfigError for anything else."""
    entries = [value] if isinstance(value, str) else value or []
    if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
        raise ConfigError("expected a list of Python files or modules", ("imports",))
    return entries


def absolute_entry(entry: str, folder: Path) -> str:
    """Return a file's absolute path, seen from `folder`; a module's name as it is."""
    return str((folder / Path(entry).expanduser()).resolve()) if entry.endswith(".py") else entry


def module_of(entry: str) -> str:
    """Return the name under which a file or module is imported."""
    if not entry.endswith(".py"):
        return entry
    return f"cifarlab_imports.{Path(entry).stem}_{label_key(entry) & (1 << 64) - 1:016x}"


def import_parts(entries: Iterable[str]) -> None:
    """Import what registers a recipe's own parts; a file that changed since, anew.

    Raises ConfigError naming a file or module that fails.
    """
    for entry in entries:
        try:
            if entry.endswith(".py"):
                _run_file(entry)
            else:
                importlib.import_module(entry)
        except (Exception, SystemExit) as error:
            raise ConfigError(
                f"cannot import {entry}: {type(error).__name__}: {error}", ("imports",)
            ) from error


def _run_file(entry: str) -> None:
    """Run a Python file as a module, unless it was run with the content that it has now."""
    name = module_of(entry)
    source = Path(entry).read_bytes()
    if _SOURCES.get(name) == source:
        return
    # Not by the loader: it takes bytecode for current by the file's size and the second of its change.
    code = compile(source, entry, "exec", dont_inherit=True)
    spec = importlib.util.spec_from_file_location(name, entry)
    assert spec is not None
    _forget(name)
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    try:
        exec(code, module.__dict__)
    except BaseException:
        _forget(name)
        raise
    _SOURCES[name] = source


def _forget(module: str) -> None:
    """Remove a file's module, and what it registered."""
    _SOURCES.pop(module, None)
    sys.modules.pop(module, None)
    for forget in FORGETTERS:
        forget(module)


def import_builtin_parts() -> None:
    """Fill the registries: importing a part's module registers it."""
    for module in ("data.readers", "augment", "models", "objectives", "optim"):
        importlib.import_module(f"cifarlab.{module}")


def import_named(imports: Sequence[Path | str]) -> list[str]:
    """Import the package's parts and what a caller names; return its entries."""
    import_builtin_parts()
    named = [imports] if isinstance(imports, str | Path) else imports
    entries = [absolute_entry(str(entry), Path.cwd()) for entry in named]
    import_parts(entries)
    return entries
