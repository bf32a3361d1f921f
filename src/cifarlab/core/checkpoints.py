"""Checkpoint files of tensors and plain containers.

They are written atomically, and reading them runs no code.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch

from cifarlab.core.errors import ConfigError, reason_of
from cifarlab.core.files import write_atomically

FORMAT = 1


def save_checkpoint(path: Path, state: Mapping[str, object]) -> None:
    """Write a checkpoint of tensors and plain containers atomically.

    Raises:
        Failure: The file cannot be written.
    """
    write_atomically(path, lambda file: torch.save({"format": FORMAT, **state}, file))


def load_checkpoint(path: Path, keys: tuple[str, ...]) -> dict[str, Any]:
    """Load a checkpoint into host memory without executing anything in it (`weights_only=True`).

    Args:
        path: The checkpoint.
        keys: Keys that the checkpoint must have. It may have others.

    Raises:
        ConfigError: The file is missing, unreadable, of another format, or lacks a key.
    """
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such checkpoint") from None
    except Exception as error:  # torch raises errors of many types for damaged files.
        reason = _why_unreadable(path, error)
        raise ConfigError(f"{path}: not a readable checkpoint ({reason})") from None
    state = cast("dict[str, Any]", loaded if isinstance(loaded, dict) else {})
    known = state.get("format")
    if isinstance(known, int) and not isinstance(known, bool) and known != FORMAT:
        raise ConfigError(f"{path}: a checkpoint of format {known}; this version of cifarlab reads {FORMAT}")
    if known != FORMAT or not set(keys) <= state.keys():
        raise ConfigError(f"{path}: not a checkpoint of cifarlab")
    return state


def best_in(folder: Path) -> Path:
    """Return the path of `best.pt` in a run's folder.

    Raises:
        ConfigError: The folder has no `best.pt`.
    """
    path = folder / "best.pt"
    if path.is_file():
        return path
    near = sorted(found.parent for found in folder.glob("*/best.pt"))
    hint = f"; did you mean {near[0]}?" if near else ""
    raise ConfigError(f"{folder} has no best.pt: it has not finished an epoch, or is not a run{hint}")


def _why_unreadable(path: Path, error: Exception) -> str:
    """Explain why a checkpoint cannot be read.

    torch's message is not used, since it suggests `weights_only=False`, which would run code in the file.
    """
    if isinstance(error, OSError):
        return reason_of(error)
    if not path.stat().st_size:
        return "it is empty"
    try:
        is_archive = zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # The file ends like one part of a multi-file archive.
        is_archive = False
    if not is_archive:
        return "it is truncated, or not a checkpoint"
    if isinstance(error, pickle.UnpicklingError):
        return "it contains more than tensors and plain values"
    return reason_of(error)
