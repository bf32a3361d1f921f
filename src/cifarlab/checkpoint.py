"""Atomic files and checkpoints: what was saved is never half-written, and never loaded as code."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch

from cifarlab.registry import ConfigError, Failure

FORMAT = 1


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


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint of tensors and plain containers atomically."""
    write_atomically(path, lambda file: torch.save({"format": FORMAT, **state}, file))


def load(path: Path, keys: tuple[str, ...]) -> dict[str, Any]:
    """Read a checkpoint to the host; nothing in it can run (`weights_only=True`).

    keys: what it must hold. Raises ConfigError naming a file that is not such a checkpoint.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such checkpoint") from None
    except Exception as error:  # A damaged file raises whatever its reader ran into.
        reason = why_unreadable(path, error)
        raise ConfigError(f"{path}: not a checkpoint that can be read ({reason})") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT or not set(keys) <= state.keys():
        raise ConfigError(f"{path}: not a checkpoint of this version of cifarlab")
    return state


def why_unreadable(path: Path, error: Exception) -> str:
    """What is the matter with a file that torch could not read; its own words advise to run what is in it."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    if not path.stat().st_size:
        return "it is empty"
    try:
        is_archive = zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # Its end speaks of further files.
        is_archive = False
    if not is_archive:
        return "it is cut off, or of another kind"
    if isinstance(error, pickle.UnpicklingError):
        return "it holds more than tensors and plain values"
    return str(error).strip().partition("\n")[0][:120] or type(error).__name__


def file_digest(path: Path) -> str:
    """The sha256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def clear_leftovers(folder: Path) -> None:
    """Remove what a killed process left half-written. Only for the holder of the run's lock."""
    for leftover in folder.glob(".*.tmp"):
        leftover.unlink(missing_ok=True)
