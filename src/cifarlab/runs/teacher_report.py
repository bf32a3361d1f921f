"""What was measured of a teacher before its student was trained, and what asking it cost."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import BeforeValidator, Field

from cifarlab.core.records import Record


def _from_null(value: object) -> object:
    """JSON has no word for what is not finite: files hold null in its place."""
    return math.nan if value is None else value


_Measured = Annotated[float, BeforeValidator(_from_null)]


class TeacherFile(Record):
    """A checkpoint that answers."""

    path: str
    sha256: str


class TaughtTerm(Record):
    """What a loss gets from the teacher that it reads.

    Attributes:
        gradient_norm: Of the weighted term at the initial weights.
        gradient_ratio: `gradient_norm` over that of all terms without a teacher; None where there are none.
    """

    gradient_norm: _Measured
    gradient_ratio: float | None


class TemperedTerm(TaughtTerm):
    """The same of a loss that reads answers at a temperature.

    Attributes:
        temperature: The loss's.
        entropy: Of the answers to training views, in nats; a mean, as `kl_from_uniform`.
        kl_from_uniform: In nats, `TeacherReport.log_classes` at most.
    """

    temperature: float
    entropy: _Measured
    kl_from_uniform: _Measured


class TeacherReport(Record):
    """What a teacher has to say.

    Attributes:
        teachers: One, or several that answer together.
        temperatures: What the logits of each are divided by.
        measured_on: The pictures of `teacher_top1`: val, the teacher's val, or train.
        pictures: How many those are.
        teacher_top1: Accuracy on them, clean.
        agreement: Share of the training views that the teacher gives the label.
        log_classes: Logarithm of the number of classes.
        terms: By the label of each loss that reads the teacher.
        cache_seconds: That it took to keep the teacher's answers.
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
