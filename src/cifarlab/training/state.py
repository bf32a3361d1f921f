"""The state of the training loop, and the content of `last.pt` and `best.pt`."""

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
    """The state of the training loop, without the model and the rest of the engine.

    Attributes:
        step: Number of optimizer steps since the start of the run.
        best: Log row of the best epoch so far. None before the end of the first epoch.
        log_size: Size of `metrics.jsonl` in bytes at this step.
        seconds: Duration of the run in seconds. If the run was resumed, the sum over all sessions.
        peak_memory_bytes: Peak GPU memory. Without a GPU, peak memory of the process.
        distillation: Measurements of the teacher. None if the run has no teacher.
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
            pydantic.ValidationError: The measurements of the teacher are damaged.
        """
        known = {each.name: saved[each.name] for each in fields(cls) if each.name in saved}
        # The first runs without a teacher saved no `distillation`.
        if (health := known.get("distillation")) is not None:
            known["distillation"] = TeacherReport.model_validate(health)
        return cls(**known)

    def to_plain(self) -> dict[str, Any]:
        """Return the state in the form of `last.pt`: plain values and containers."""
        health = self.distillation
        return {**vars(self), "distillation": health.to_json() if health is not None else None}

    def is_out_of_patience(self, patience: int | None, epochs: int) -> bool:
        """Tell whether the best epoch is `patience` or more epochs ago.

        Args:
            patience: `train.patience`. If it is None, the result is False.
            epochs: Number of epochs trained so far.
        """
        return patience is not None and self.best is not None and epochs - self.best["epoch"] >= patience


class LastState(TypedDict):
    """The content of `last.pt`: everything that later steps depend on.

    The first six keys are the attributes of `LoopState`.

    Attributes:
        engine: State of the engine: model, optimizer, ...
        precision: Autocast dtype of the training, e.g. `bfloat16`.
        fingerprint: For each part of the data set that was read (`train`, `val`, `test`), a hash of the
            pictures and labels in it.
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
        classes: Names of the classes. The index of a name is the label of the class.
        fingerprint: For each part of the data set that was read (`train`, `val`, `test`), a hash of the
            pictures and labels in it.
        store_size: Side length in pixels at which the training pictures were stored.
        row: Log row of the epoch that the weights are from.
    """

    model: dict[str, Tensor]
    config: dict[str, Plain]
    classes: list[str]
    fingerprint: dict[str, str]
    store_size: int
    row: EpochRow
