"""Records of a teacher's checks before its student is trained."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import BeforeValidator, Field

from cifarlab.core.records import Record


def _from_null(value: object) -> object:
    """Read null as nan: JSON cannot hold a number that is not finite."""
    return math.nan if value is None else value


_Measured = Annotated[float, BeforeValidator(_from_null)]


class TeacherFile(Record):
    """A checkpoint of a teacher."""

    path: str
    sha256: str


class TaughtTerm(Record):
    """Measurements of a distillation loss.

    Attributes:
        gradient_norm: Gradient norm of the weighted loss at the initial weights.
        gradient_ratio: `gradient_norm` divided by that of all losses without a teacher. None if there are
            none.
    """

    gradient_norm: _Measured
    gradient_ratio: float | None


class TemperedTerm(TaughtTerm):
    """Measurements of a distillation loss with a temperature.

    Attributes:
        temperature: Temperature of the loss.
        entropy: Mean entropy of the teacher's probabilities for training views, in nats.
        kl_from_uniform: Mean KL divergence from uniform, in nats: at most `TeacherReport.log_classes`.
    """

    temperature: float
    entropy: _Measured
    kl_from_uniform: _Measured


class TeacherReport(Record):
    """Measurements of a teacher.

    Attributes:
        teachers: Checkpoints of the teachers. Several give the mean of their logits.
        temperatures: Divisor of each teacher's logits.
        measured_on: The pictures of `teacher_top1`: val, the teacher's val, or train.
        pictures: Number of these pictures.
        teacher_top1: Accuracy on these pictures, unaugmented.
        agreement: Accuracy on training views.
        log_classes: Logarithm of the number of classes.
        terms: Measurements of the losses that need the teacher, by label.
        cache_seconds: Time that computing and storing the teacher's answers took.
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
