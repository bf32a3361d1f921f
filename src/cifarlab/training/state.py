"""The state of the training loop, and the content of its checkpoints."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Self, TypedDict

from torch import Tensor

from cifarlab.core.plain import Plain
from cifarlab.engine.state import EngineState
from cifarlab.runs.log import EpochRow
from cifarlab.runs.teacher_report import TeacherReport


@dataclass
class LoopState:
    """The state of the loop in `last.pt`. The state of the engine is separate.

    Attributes:
        step: Number of steps since the start of the run.
        best: Row of the best epoch so far.
        log_size: Bytes of `metrics.jsonl` at this step.
        seconds: Duration of the run, over all its processes.
        peak_memory_bytes: Peak memory of the process, or of the GPU if there is one.
        distillation: Measurements of the teacher. None without one.
    """

    step: int = 0
    best: EpochRow | None = None
    log_size: int = 0
    seconds: float = 0.0
    peak_memory_bytes: int = 0
    distillation: TeacherReport | None = None

    @classmethod
    def from_plain(cls, saved: LastState) -> Self:
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
        """Tell whether the best epoch is at least `patience` epochs ago."""
        return patience is not None and self.best is not None and epochs - self.best["epoch"] >= patience


class LastState(TypedDict):
    """The content of `last.pt`: everything that later steps depend on.

    The first six keys are those of `LoopState`.

    Attributes:
        engine: State of the engine: model, optimizer, ...
        precision: Precision of the training.
        fingerprint: Fingerprints of the data, by part.
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
    """The content of `best.pt`: a standalone model with its configuration.

    Attributes:
        model: State dict of the classifier.
        config: The configuration as plain data.
        classes: Names of the classes.
        fingerprint: Fingerprints of the data, by part.
        store_size: Side length in pixels of the stored pictures that the model was trained on.
        row: Row of the model's epoch in the log.
    """

    model: dict[str, Tensor]
    config: dict[str, Plain]
    classes: list[str]
    fingerprint: dict[str, str]
    store_size: int
    row: EpochRow
