"""Measurements of a teacher, made before its student is trained.

The time spent on caching the teacher's outputs is added during training.
"""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import BeforeValidator, Field

from cifarlab.core.records import Record


def _from_null(value: object) -> object:
    """Return NaN for null, which JSON files have in place of NaN."""
    return math.nan if value is None else value


_Measured = Annotated[float, BeforeValidator(_from_null)]


class TeacherFile(Record):
    """Path and sha256 of a teacher's checkpoint."""

    path: str
    sha256: str


class TaughtTerm(Record):
    """Measurements of a loss that reads the teacher.

    Attributes:
        gradient_norm: Norm of the gradient of the loss times its weight in the objective, with respect to the
            student's trainable parameters, on the first batch before the student is trained.
        gradient_ratio: `gradient_norm` divided by the root of the sum of the squared gradient norms of the
            losses that read no teacher. None if there are no such losses.
    """

    gradient_norm: _Measured
    gradient_ratio: float | None


class TemperedTerm(TaughtTerm):
    """Measurements of a distillation loss with a temperature.

    Attributes:
        temperature: Temperature of the loss.
        entropy: Mean entropy, in nats, of the teacher's probabilities at this temperature on augmented
            training pictures.
        kl_from_uniform: Mean KL divergence, in nats, of these probabilities from the uniform distribution:
            `log_classes` - `entropy`.
    """

    temperature: float
    entropy: _Measured
    kl_from_uniform: _Measured


class TeacherReport(Record):
    """Measurements of a teacher, which may be an ensemble.

    Attributes:
        teachers: Checkpoints of the ensemble's members. A single teacher is an ensemble of one.
        temperatures: For each member, the temperature by which its logits are divided, found by calibration.
            1 without calibration.
        measured_on: Pictures on which `teacher_top1` was measured. `val` or `train`: those of the student's
            run. `the teacher's val`: the validation pictures of the teacher's own run.
        pictures: Number of these pictures.
        teacher_top1: Accuracy of the teacher on these pictures, without augmentation, in [0, 1].
        agreement: Accuracy of the teacher on augmented training pictures of the first epoch, in [0, 1].
        log_classes: Natural logarithm of the number of classes.
        terms: Measurements of each loss that reads the teacher, by the key of the loss in `objective`.
        cache_seconds: Time spent on caching the teacher's outputs, in seconds. 0 if nothing was cached.
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
