"""What of the loop outlives a stop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypedDict

from torch import Tensor

from cifarlab.core.plain import Plain
from cifarlab.engine.state import EngineState
from cifarlab.runs.log import EpochRow


@dataclass
class LoopState:
    """The loop's share of `last.pt`, beside the engine's.

    Attributes:
        step: Steps taken since the run began.
        best: The row of the best epoch so far.
        log_size: Bytes of `metrics.jsonl` that belong to the run.
        seconds: Of training, earlier ones included.
        peak_memory_bytes: Of the device.
        distillation: What was measured of the teacher; None without one.
    """

    step: int = 0
    best: EpochRow | None = None
    log_size: int = 0
    seconds: float = 0.0
    peak_memory_bytes: int = 0
    distillation: dict[str, Any] | None = None

    def is_out_of_patience(self, patience: int | None, epochs: int) -> bool:
        """Tell whether none of the last `patience` of `epochs` was the best so far."""
        return patience is not None and self.best is not None and epochs - self.best["epoch"] >= patience


class LastState(TypedDict):
    """What `last.pt` holds: all that the rest of the run depends on.

    The loop's share is that of `LoopState`, by name. fingerprint: of the data, by part.
    """

    step: int
    best: EpochRow | None
    log_size: int
    seconds: float
    peak_memory_bytes: int
    distillation: dict[str, Any] | None
    engine: EngineState
    precision: str
    fingerprint: dict[str, str]


class BestState(TypedDict):
    """What `best.pt` holds: a model that stands alone, with its configuration and its classes' names.

    store_size: pixels a side of the pictures that the model was given. row: of the log, of its epoch.
    """

    model: dict[str, Tensor]
    config: dict[str, Plain]
    classes: list[str]
    fingerprint: dict[str, str]
    store_size: int
    row: EpochRow
