"""Optimizers, learning-rate schedules, sharpness-aware steps and weight averages."""

from cifarlab.optim.averages import ema, swa
from cifarlab.optim.optimizers import adamw, build_optimizer, lion, muon, parameter_groups, sgd
from cifarlab.optim.sam import asam, sam
from cifarlab.optim.schedules import (
    constant,
    cosine,
    cosine_restarts,
    learning_rate,
    linear,
    one_cycle,
    step,
)

__all__ = [
    "adamw",
    "asam",
    "build_optimizer",
    "constant",
    "cosine",
    "cosine_restarts",
    "ema",
    "learning_rate",
    "linear",
    "lion",
    "muon",
    "one_cycle",
    "parameter_groups",
    "sam",
    "sgd",
    "step",
    "swa",
]
