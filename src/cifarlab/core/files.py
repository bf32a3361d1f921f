"""Reading and writing of files. Files are written atomically: completely or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, BinaryIO

from cifarlab.core.errors import ConfigError, Failure, reason_of
from cifarlab.core.plain import is_dict, is_sequence


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file completely or not at all, even after a crash.

    Args:
        path: The file to create or replace.
        write: Called with a binary file that is open for writing. It writes the content.

    Raises:
        Failure: The file cannot be written.
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
        reason = reason_of(error)
        with contextlib.suppress(OSError):  # The folder may have been removed.
            if shutil.disk_usage(path.parent).free < 1 << 20:
                reason = "no space left on the disk"
        raise _unwritable(path, reason) from error
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
    """Write JSON atomically. NaN and infinity become null, since JSON has no such values."""
    text = json.dumps(_finite(content), indent=2, allow_nan=False) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if is_dict(value):
        return {key: _finite(item) for key, item in value.items()}
    if is_sequence(value):
        return [_finite(item) for item in value]
    return value


def file_digest(path: Path) -> str:
    """Return the sha256 of a file as hexadecimal text."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def clear_leftovers(folder: Path) -> None:
    """Remove temporary files that a killed process left in a run's folder.

    Call it only while holding the run's lock, since another process may be writing such a file.
    """
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink(missing_ok=True)


def read_json(path: Path) -> dict[str, Any]:
    """Read a file that holds a JSON object.

    Raises:
        ConfigError: The file is missing, unreadable, or does not hold a JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (ValueError, OSError) as error:
        empty = isinstance(error, json.JSONDecodeError) and not error.doc.strip()
        reason = "it is empty" if empty else reason_of(error)
        raise ConfigError(f"{path}: cannot be read: {reason}") from None
    if not is_dict(content):
        raise ConfigError(f"{path}: cannot be read: not a JSON object")
    return content


@contextlib.contextmanager
def writing(path: Path) -> Generator[None]:
    """Convert an OSError in the `with` body to a Failure naming `path`."""
    try:
        yield
    except OSError as error:
        raise _unwritable(path, reason_of(error)) from error


def _unwritable(path: Path, reason: str) -> Failure:
    return Failure(f"{path}: cannot be written ({reason}); files saved before are intact")
