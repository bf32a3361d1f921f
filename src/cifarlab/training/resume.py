"""What a run's `last.pt` and `best.pt` hold, and how a run goes on from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError
from torch import nn

from cifarlab.config import Config
from cifarlab.core import checkpoints
from cifarlab.core.errors import ConfigError
from cifarlab.data.splits import Splits
from cifarlab.engine.step import Engine
from cifarlab.runs.folder import Run
from cifarlab.runs.model import BEST
from cifarlab.training.state import LoopState

# What last.pt holds: all that the rest of the run depends on.
LAST = ("engine", "step", "best", "log_size", "seconds", "peak_memory_bytes", "precision", "fingerprint")


def best_state(model: nn.Module, config: Config, splits: Splits, row: dict[str, Any]) -> dict[str, Any]:
    """What `best.pt` holds: a model that stands alone, with its configuration and its classes' names."""
    return {
        "model": model.state_dict(),
        "config": config.dump(),
        "classes": list(splits.classes),
        "fingerprint": splits.fingerprint,
        "store_size": splits.train.images.shape[-1],
        "row": row,
    }


def read_best(run: Run) -> dict[str, Any]:
    """What the run's `best.pt` holds. Raises ConfigError."""
    return _read_own(run.best_path, BEST)


def resume(run: Run, engine: Engine, splits: Splits) -> tuple[LoopState | None, list[str]]:
    """Bring the engine to where `last.pt` was written: (the loop's state there, warnings).

    The state is None where the run has no such file. Its `best` is the row of the best epoch so far. A kill
    may leave best.pt some epochs ahead of last.pt: then `best` is that file's, and what is trained again on
    the way there is compared with it, and is no better. Raises ConfigError for a file that is damaged, and
    where the data have changed.
    """
    if not run.last_path.exists():
        gone = f"{run.last_path} is gone: the run begins again at epoch 1"
        return None, [gone] if run.best_path.exists() else []
    saved = _read_own(run.last_path, LAST)
    if saved["fingerprint"] != splits.fingerprint:
        raise ConfigError(
            f"the data have changed since {run} began (another fingerprint): its validation "
            "pictures may have been trained on; bring back the old data, or start over with `--fresh`"
        )
    warnings = []
    if saved["precision"] != str(engine.precision):
        warnings.append(f"the run began in {saved['precision']} and goes on in {engine.precision}")
    try:
        engine.load_state_dict(saved["engine"])
    except (RuntimeError, KeyError, ValueError) as error:
        reason = " ".join(str(error).split())[:150]
        raise ConfigError(
            f"{run.last_path}: does not fit its configuration ({reason}); `--fresh` starts over"
        ) from None
    try:
        state = LoopState.from_plain(saved)
    except ValidationError as error:
        reason = f"what it says of the teacher, {error.errors()[0]['msg'].lower()}"
        raise ConfigError(f"{run.last_path}: damaged: {reason}; `--fresh` starts over") from None
    if state.best is not None or run.best_path.exists():
        row = read_best(run)["row"]
        state.best = row if row["step"] > state.step else state.best
    return state, warnings


def _read_own(path: Path, keys: tuple[str, ...]) -> dict[str, Any]:
    """A checkpoint that the run itself wrote: one that cannot be read is a reason to start over."""
    try:
        return checkpoints.load_checkpoint(path, keys)
    except ConfigError as error:
        raise ConfigError(f"{error}; `--fresh` starts over") from None
