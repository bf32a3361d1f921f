"""Optimizers, learning-rate schedules and weight averages."""

from cifarlab.optim.averages import ema
from cifarlab.optim.optimizers import adamw, build_optimizer, parameter_groups, sgd
from cifarlab.optim.schedules import constant, cosine, learning_rate, one_cycle, step

__all__ = [
    "adamw",
    "build_optimizer",
    "constant",
    "cosine",
    "ema",
    "learning_rate",
    "one_cycle",
    "parameter_groups",
    "sgd",
    "step",
]
