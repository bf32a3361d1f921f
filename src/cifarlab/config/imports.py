"""Import of modules that register parts: those of this package, and custom ones.

The option `imports` of a recipe lists a user's Python files (`*.py`) and modules (dotted names).
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import cast

from cifarlab.core.errors import ConfigError
from cifarlab.core.plain import Plain, is_list
from cifarlab.core.random import label_key
from cifarlab.core.registry import FORGETTERS

# Source of each file in `imports` that was executed, by the name of its module.
_SOURCES: dict[str, bytes] = {}


def read_entries(value: Plain) -> list[str]:
    """Return the entries of the option `imports` as a list.

    Args:
        value: A string, a list of strings, or None for an empty list.

    Raises:
        ConfigError: The value is something else.
    """
    entries = [value] if isinstance(value, str) else [] if value is None else value
    if not is_list(entries) or not all(isinstance(entry, str) for entry in entries):
        raise ConfigError("expected a list of Python files or modules", ("imports",))
    return cast("list[str]", entries)


def absolute_entry(entry: str, folder: Path) -> str:
    """Resolve a file's path against `folder`. Return a module's name unchanged."""
    return str((folder / Path(entry).expanduser()).resolve()) if entry.endswith(".py") else entry


def module_of(entry: str) -> str:
    """Return the module name under which an entry of `imports` is imported.

    A dotted name is returned unchanged. The name for a Python file is made from the path of the file.
    """
    if not entry.endswith(".py"):
        return entry
    return f"cifarlab_imports.{Path(entry).stem}_{label_key(entry) & (1 << 64) - 1:016x}"


def import_parts(entries: Iterable[str]) -> None:
    """Import files and modules that register custom parts.

    A file that this process has already run is run again only if it has changed.

    Raises:
        ConfigError: An import fails. The message names the file or module.
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
    """Execute a Python file as a module.

    Nothing is done if this process has executed the file before and it has not changed since.
    """
    name = module_of(entry)
    source = Path(entry).read_bytes()
    if _SOURCES.get(name) == source:
        return
    # Python's loader would reuse bytecode if the file's size and its modification second are unchanged.
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
    """Remove a file's module from `sys.modules`, and unregister its parts."""
    _SOURCES.pop(module, None)
    sys.modules.pop(module, None)
    for forget in FORGETTERS:
        forget(module)


def import_builtin_parts() -> None:
    """Import the package's modules that register parts."""
    for module in ("data.readers", "augment", "models", "objectives", "optim"):
        importlib.import_module(f"cifarlab.{module}")


def import_named(imports: Sequence[Path | str]) -> list[str]:
    """Import the package's parts, then the given files and modules.

    Args:
        imports: Paths of Python files, or names of modules.

    Returns:
        The entries of `imports`, with absolute paths for files.
    """
    import_builtin_parts()
    named = [imports] if isinstance(imports, str | Path) else imports
    entries = [absolute_entry(str(entry), Path.cwd()) for entry in named]
    import_parts(entries)
    return entries
