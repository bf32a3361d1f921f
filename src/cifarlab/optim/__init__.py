"""Optimizers, learning-rate schedules and weight averages."""

from cifarlab.optim.averages import ema
from cifarlab.optim.optimizers import adamw, build_optimizer, parameter_groups, sgd
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
    "build_optimizer",
    "constant",
    "cosine",
    "cosine_restarts",
    "ema",
    "learning_rate",
    "linear",
    "one_cycle",
    "parameter_groups",
    "sgd",
    "step",
]
