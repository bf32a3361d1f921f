"""Checks that need a short training, or the teacher's outputs."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator

from cifarlab.config import Config
from cifarlab.core.registries import SCHEDULES
from cifarlab.doctor.check_registry import Reasons, check
from cifarlab.doctor.probe import Probe
from cifarlab.engine.step import Engine
from cifarlab.teachers import teacher_faults

PICTURES, STEPS = 64, 200
# Training accuracies: the check ends early at the first one, and fails if it stays below the second one.
_BY_HEART, _FAILED = 0.9, 0.5


@check("deep", "error", "try optim.lr ten times higher, then lower; check model.freeze and the loss")
def cannot_overfit(probe: Probe) -> Reasons:
    """Check that the model can memorise 64 unaugmented pictures in 200 steps.

    A finding means that more than half of them stay misclassified, or that the loss is not finite.
    """
    engine = Engine(
        overfitting(probe.config),
        copy.deepcopy(probe.model),
        copy.deepcopy(probe.objective),
        probe.job.splits.train.first(PICTURES),
        probe.job.engine.precision,
        teacher=probe.job.teacher,
    )
    engine.model.train()
    best = 0.0
    for step in range(STEPS):
        engine.step(engine.order(step), step, step)
        means = engine.means.read()
        engine.means.reset()
        if not math.isfinite(means["loss/total"]):
            yield f"on {len(engine.train_split)} pictures the loss is not finite after {step + 1} steps"
            return
        best = max(best, means["top1"])
        if best >= _BY_HEART:
            return
    if best < _FAILED:
        count = len(engine.train_split)
        yield f"after {STEPS} steps on {count} pictures, training accuracy is only {best:.0%}"


def overfitting(config: Config) -> Config:
    """Return a configuration for memorising one batch of a few pictures.

    There is no augmentation and no weight decay. The learning rate stays at its peak after a warm-up.
    """
    clean = {"augment": {}, "mix": {}, "multi_scale": None, "batch_size": PICTURES, "views": None,
             "freeze_views": False}  # fmt: skip
    steady = {"schedule": SCHEDULES.spec({"name": "constant", "warmup": 0.1}), "sharpness": None}
    return config.model_copy(
        update={
            "data": config.data.model_copy(update=clean),
            "optim": config.optim.model_copy(update={**steady, "weight_decay": 0.0}),
            "train": config.train.model_copy(update={"epochs": STEPS, "accumulate": 1, "average": None}),
        }
    )


def _teacher_fault(probe: Probe, wanted: str) -> Iterator[tuple[str, str]]:
    health = probe.health
    said = teacher_faults(health, probe.config) if health is not None else []
    yield from ((reason, fix) for kind, reason, fix in said if kind == wanted)


@check("deep", "warning", "train it longer, or name another teacher.run", told=True)
def teacher_guesses(probe: Probe) -> Reasons:
    """Check that the teacher is clearly better than random guessing."""
    return _teacher_fault(probe, "guess")


@check("deep", "warning", "set teacher.calibrate=true, or lower the temperature", told=True)
def teacher_says_little(probe: Probe) -> Reasons:
    """Check that the teacher's probabilities for training pictures are not almost uniform.

    They are those at the temperature of the distillation loss.
    """
    return _teacher_fault(probe, "near_uniform")


@check("deep", "warning", "raise the temperature", told=True)
def teacher_near_one_hot(probe: Probe) -> Reasons:
    """Check that the teacher's probabilities are not almost one-hot.

    If they are, they add little to the labels.
    """
    return _teacher_fault(probe, "near_one_hot")


@check("deep", "warning", "raise the weight of its loss, or train the layers that it acts on", told=True)
def teacher_hardly_counts(probe: Probe) -> Reasons:
    """Check that the teacher contributes noticeably to the gradient."""
    return _teacher_fault(probe, "idle")


@check("deep", "warning", "hold pictures out in the teacher's run: data.val=0.1", told=True)
def teacher_not_held_out(probe: Probe) -> Reasons:
    """Check that the teacher is not scored or calibrated on its training pictures."""
    return _teacher_fault(probe, "not_held_out")


@check("deep", "warning", "name another teacher.run, or set teacher.calibrate=false", told=True)
def teacher_not_calibrated(probe: Probe) -> Reasons:
    """Check that a temperature in the allowed range calibrates the teacher."""
    return _teacher_fault(probe, "not_calibrated")
