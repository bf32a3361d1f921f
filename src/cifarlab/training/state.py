"""What of the loop outlives a stop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


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
    best: dict[str, Any] | None = None
    log_size: int = 0
    seconds: float = 0.0
    peak_memory_bytes: int = 0
    distillation: dict[str, Any] | None = None

    def is_out_of_patience(self, patience: int | None, epochs: int) -> bool:
        """Tell whether none of the last `patience` of `epochs` was the best so far."""
        return patience is not None and self.best is not None and epochs - self.best["epoch"] >= patience
