"""Measurements of a teacher before its student is trained, and the cost of its outputs."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import BeforeValidator, Field

from cifarlab.core.records import Record


def _from_null(value: object) -> object:
    """Return NaN for null: JSON cannot express values that are not finite."""
    return math.nan if value is None else value


_Measured = Annotated[float, BeforeValidator(_from_null)]


class TeacherFile(Record):
    """A teacher's checkpoint."""

    path: str
    sha256: str


class TaughtTerm(Record):
    """Measurements of a loss that reads the teacher.

    Attributes:
        gradient_norm: Norm of the weighted loss's gradient at the initial weights.
        gradient_ratio: `gradient_norm` divided by the norm of all losses without a teacher. None if there are
            none.
    """

    gradient_norm: _Measured
    gradient_ratio: float | None


class TemperedTerm(TaughtTerm):
    """Measurements of a distillation loss with a temperature.

    Attributes:
        temperature: Temperature of the loss.
        entropy: Mean entropy of the teacher's probabilities on training views, in nats.
        kl_from_uniform: Mean KL divergence from the uniform distribution, in nats; at most `log_classes`.
    """

    temperature: float
    entropy: _Measured
    kl_from_uniform: _Measured


class TeacherReport(Record):
    """Measurements of a teacher or of an ensemble of teachers.

    Attributes:
        teachers: Checkpoint of each teacher.
        temperatures: Divisor of each teacher's logits.
        measured_on: Pictures of `teacher_top1`: val, the teacher's val, or train.
        pictures: Number of those pictures.
        teacher_top1: Accuracy on those pictures, without augmentation.
        agreement: Share of training views for which the teacher's class is the label.
        log_classes: Logarithm of the number of classes.
        terms: Measurements of each loss that reads the teacher, by its label.
        cache_seconds: Time that it took to cache the teacher's outputs, in seconds.
    """

    teachers: list[TeacherFile]
    temperatures: list[float]
    measured_on: str
    pictures: int
    teacher_top1: _Measured
    agreement: _Measured
    log_classes: float
    terms: dict[str, Annotated[TemperedTerm | TaughtTerm, Field(union_mode="left_to_right")]]
    cache_seconds: float = 0.0
