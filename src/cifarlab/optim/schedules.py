"""Schedules: the share of the run that is over to a factor of the peak learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated

from pydantic import AfterValidator, Field

from cifarlab.config import OptimConfig
from cifarlab.core.errors import ConfigError
from cifarlab.core.registries import SCHEDULES


def _ascending(milestones: tuple[float, ...]) -> tuple[float, ...]:
    if list(milestones) != sorted(set(milestones)):
        raise ConfigError(f"milestones ascend, got {list(milestones)}")
    return milestones


# Warm-up and milestones are shares of the run, so that a recipe keeps its shape when train.epochs changes.
Warmup = Annotated[float, Field(ge=0, lt=1, description="share of the run that rises to the peak")]
Floor = Annotated[float, Field(ge=0, le=1, description="share of the peak that the rate falls to")]
Milestones = Annotated[
    tuple[Annotated[float, Field(gt=0, lt=1, description="share of the run")], ...],
    AfterValidator(_ascending),
]
Factor = Annotated[float, Field(ge=0, le=1)]
Cycles = Annotated[int, Field(ge=1, le=100, description="how often the rate falls from its peak")]
Growth = Annotated[float, Field(ge=1, le=10, description="length of a cycle over that of the cycle before")]


def _fall(progress: float, warmup: float, floor: float, shape: Callable[[float], float]) -> float:
    """Linear from 0 to the peak over the warm-up; then from the peak to floor x peak.

    shape: from 1 to 0, of the share that is over of what follows the warm-up.
    """
    if progress < warmup:
        return progress / warmup
    return floor + (1 - floor) * shape((progress - warmup) / (1 - warmup))


def _half_cosine(progress: float) -> float:
    """From 1 to 0."""
    return (1 + math.cos(math.pi * progress)) / 2


@SCHEDULES.register
def constant(progress: float, *, warmup: Warmup = 0.0) -> float:
    """The peak throughout: it falls to no floor."""
    return _fall(progress, warmup, 1.0, lambda rest: 0.0)


@SCHEDULES.register
def step(
    progress: float,
    *,
    warmup: Warmup = 0.0,
    floor: Floor = 0.0,
    milestones: Milestones = (0.3, 0.6, 0.8),
    gamma: Factor = 0.2,
) -> float:
    """Multiplied by gamma at each milestone, a share of the run; never below floor x peak once warm."""
    left = gamma ** sum(progress >= milestone for milestone in milestones)
    # The floor is a bound here: every stage above it keeps its rate. A milestone in the warm-up counts there.
    return progress / warmup * left if progress < warmup else max(floor, left)


@SCHEDULES.register
def cosine(progress: float, *, warmup: Warmup = 0.0, floor: Floor = 0.0) -> float:
    """Half a cosine from the peak to floor x peak (Loshchilov and Hutter 2017)."""
    return _fall(progress, warmup, floor, _half_cosine)


@SCHEDULES.register
def cosine_restarts(
    progress: float, *, warmup: Warmup = 0.0, floor: Floor = 0.0, cycles: Cycles = 4, growth: Growth = 1.0
) -> float:
    """Half a cosine from the peak to floor x peak, `cycles` times (SGDR, Loshchilov and Hutter 2017).

    growth: each cycle is so many times as long as the one before; together they fill what follows the
    warm-up.
    """
    lengths = [growth**cycle for cycle in range(cycles)]

    def shape(rest: float) -> float:
        # Rounded, or a restart that falls on a step might come one step late.
        place, cycle = round(rest * sum(lengths), 9), 0
        while cycle < cycles - 1 and place >= round(sum(lengths[: cycle + 1]), 9):
            cycle += 1
        return _half_cosine(min(1.0, (place - sum(lengths[:cycle])) / lengths[cycle]))

    return _fall(progress, warmup, floor, shape)


@SCHEDULES.register
def linear(progress: float, *, warmup: Warmup = 0.0, floor: Floor = 0.0) -> float:
    """A straight line from the peak to floor x peak."""
    return _fall(progress, warmup, floor, lambda rest: 1 - rest)


@SCHEDULES.register
def one_cycle(
    progress: float, *, warmup: Warmup = 0.3, start: Factor = 1 / 25, floor: Floor = 1e-4 / 25
) -> float:
    """Half a cosine up from start x peak, then half a cosine down to floor x peak (Smith and Topin 2018).

    Torch's OneCycleLR, whose first and last step are numbered 0 and total, over progress instead of steps.
    """
    if progress < warmup:
        return 1 + (start - 1) * _half_cosine(progress / warmup)
    return _fall(progress, warmup, floor, _half_cosine)


def learning_rate(optim: OptimConfig, step: int, total: int) -> float:
    """The learning rate of a step, counted from 0, in a run of `total` steps."""
    return optim.lr * optim.schedule.build(step / total)
