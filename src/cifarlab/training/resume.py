"""Resumption of a run from its `last.pt` and `best.pt`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError
from torch import nn

from cifarlab.config import Config
from cifarlab.core import checkpoints
from cifarlab.core.errors import ConfigError, reason_of
from cifarlab.data.splits import Splits
from cifarlab.engine.step import Engine
from cifarlab.runs.folder import Run
from cifarlab.runs.log import EpochRow
from cifarlab.runs.model import BEST
from cifarlab.training.state import BestState, LastState, LoopState

# Keys of last.pt: everything that the rest of the run depends on.
LAST = ("engine", "step", "best", "log_size", "seconds", "peak_memory_bytes", "precision", "fingerprint")


def best_state(model: nn.Module, config: Config, splits: Splits, row: EpochRow) -> BestState:
    """Return the content of `best.pt`. `row` is the log row of the epoch."""
    return {
        "model": model.state_dict(),
        "config": config.dump(),
        "classes": list(splits.classes),
        "fingerprint": splits.fingerprint,
        "store_size": splits.train.images.shape[-1],
        "row": row,
    }


def read_best(run: Run) -> BestState:
    """Read the run's `best.pt`. Raise ConfigError if it is missing or damaged."""
    return cast("BestState", _read_own(run.best_path, BEST))


def resume(run: Run, engine: Engine, splits: Splits) -> tuple[LoopState | None, list[str]]:
    """Load the engine's state from the run's `last.pt`.

    If a process was killed, `best.pt` may be from an epoch after `last.pt`. The epochs since `last.pt` are
    then trained again, and the returned state has the log row of `best.pt` as the best epoch so far.

    Returns:
        The state of the training loop, or None if the run has no `last.pt`; and warnings, one line each.

    Raises:
        ConfigError: A checkpoint is damaged, or the data have changed.
    """
    if not run.last_path.exists():
        gone = f"{run.last_path} is missing: the run starts over at epoch 1"
        return None, [gone] if run.best_path.exists() else []
    saved = cast("LastState", _read_own(run.last_path, LAST))
    if saved["fingerprint"] != splits.fingerprint:
        raise ConfigError(
            f"the data have changed since {run} started (another fingerprint), so it may have been trained "
            "on current validation pictures; restore the old data, or start over with `--fresh`"
        )
    warnings = []
    if saved["precision"] != str(engine.precision):
        warnings.append(f"the run started in {saved['precision']} and resumes in {engine.precision}")
    try:
        engine.load_state_dict(saved["engine"])
    except (RuntimeError, KeyError, ValueError) as error:
        reason = reason_of(error)
        raise ConfigError(
            f"{run.last_path}: does not fit its configuration ({reason}); `--fresh` starts over"
        ) from None
    try:
        state = LoopState.from_plain(saved)
    except ValidationError as error:
        reason = f"its record of the teacher, {error.errors()[0]['msg'].lower()}"
        raise ConfigError(f"{run.last_path}: damaged: {reason}; `--fresh` starts over") from None
    if state.best is not None or run.best_path.exists():
        row = read_best(run)["row"]
        state.best = row if row["step"] > state.step else state.best
    return state, warnings


def _read_own(path: Path, keys: tuple[str, ...]) -> dict[str, Any]:
    """Read a checkpoint of the run. Advise `--fresh` in the ConfigError if it cannot be read."""
    try:
        return checkpoints.load_checkpoint(path, keys)
    except ConfigError as error:
        raise ConfigError(f"{error}; `--fresh` starts over") from None
