"""Checkpoint files: tensors and plain containers, written whole or not at all, read without running code."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from cifarlab.core.errors import ConfigError
from cifarlab.core.files import write_atomically

FORMAT = 1


def save_checkpoint(path: Path, state: Mapping[str, object]) -> None:
    """Write a checkpoint of tensors and plain containers atomically."""
    write_atomically(path, lambda file: torch.save({"format": FORMAT, **state}, file))


def load_checkpoint(path: Path, keys: tuple[str, ...]) -> dict[str, Any]:
    """Read a checkpoint to the host; nothing in it can run (`weights_only=True`).

    keys: what it must hold. Raises ConfigError naming a file that is not such a checkpoint.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such checkpoint") from None
    except Exception as error:  # A damaged file raises whatever its reader ran into.
        reason = _why_unreadable(path, error)
        raise ConfigError(f"{path}: not a checkpoint that can be read ({reason})") from None
    known = isinstance(state, dict) and state.get("format")
    if isinstance(known, int) and not isinstance(known, bool) and known != FORMAT:
        raise ConfigError(f"{path}: a checkpoint of format {known}; this version of cifarlab reads {FORMAT}")
    if not isinstance(state, dict) or known != FORMAT or not set(keys) <= state.keys():
        raise ConfigError(f"{path}: not a checkpoint of cifarlab")
    return state


def best_in(folder: Path) -> Path:
    """The checkpoint of the chosen epoch of a run's folder. Raises ConfigError where there is none."""
    path = folder / "best.pt"
    if path.is_file():
        return path
    near = sorted(found.parent for found in folder.glob("*/best.pt"))
    hint = f"; did you mean {near[0]}?" if near else ""
    raise ConfigError(f"{folder} has no best.pt: it has not finished an epoch, or is not a run{hint}")


def _why_unreadable(path: Path, error: Exception) -> str:
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
