"""What of the loop outlives a stop."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Self

from cifarlab.runs.teacher_report import TeacherReport


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
    distillation: TeacherReport | None = None

    @classmethod
    def from_plain(cls, saved: dict[str, Any]) -> Self:
        """Return the state that a `last.pt` holds.

        Raises:
            pydantic.ValidationError: What was measured of the teacher is damaged.
        """
        known = {each.name: saved[each.name] for each in fields(cls) if each.name in saved}
        # The first runs without a teacher saved no `distillation`.
        if (health := known.get("distillation")) is not None:
            known["distillation"] = TeacherReport.model_validate(health)
        return cls(**known)

    def to_plain(self) -> dict[str, Any]:
        """Return what `last.pt` holds of it: plain values and containers."""
        health = self.distillation
        return {**vars(self), "distillation": health.to_json() if health is not None else None}

    def is_out_of_patience(self, patience: int | None, epochs: int) -> bool:
        """Tell whether none of the last `patience` of `epochs` was the best so far."""
        return patience is not None and self.best is not None and epochs - self.best["epoch"] >= patience
