"""Atomic files: what was saved is never half-written."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from cifarlab.core.errors import ConfigError, Failure


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Replace `path` by what `write(file)` writes: whole or not at all, even if the machine stops.

    Raises Failure where it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except (OSError, RuntimeError) as error:  # torch's zip writer turns a full disk into a RuntimeError.
        reason = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        with contextlib.suppress(OSError):  # The folder may be what is gone.
            if shutil.disk_usage(path.parent).free < 1 << 20:
                reason = "no space left on the disk"
        raise Failure(f"{path}: cannot be written ({reason}); what was saved before is whole") from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically; what is not finite becomes null, since JSON has no word for it."""
    text = json.dumps(_finite(content), indent=2, allow_nan=False) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def file_digest(path: Path) -> str:
    """The sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def clear_leftovers(folder: Path) -> None:
    """Remove what a killed process left half-written. Only for the holder of the run's lock."""
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink(missing_ok=True)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises ConfigError naming a file that is not one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (ValueError, OSError) as error:
        empty = isinstance(error, json.JSONDecodeError) and not error.doc.strip()
        reason = "it is empty" if empty else getattr(error, "strerror", None) or str(error).partition("\n")[0]
        raise ConfigError(f"{path}: cannot be read: {reason}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: cannot be read: not a JSON object")
    return content


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an error of the system's into the Failure that says where it happened."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise Failure(f"{path}: cannot be written ({reason}); what was saved before is whole") from error
