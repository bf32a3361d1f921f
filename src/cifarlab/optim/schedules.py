"""Schedules: the share of the run that is over to a factor of the peak learning rate."""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import AfterValidator, Field

from cifarlab.config import OptimConfig
from cifarlab.registry import SCHEDULES, ConfigError


def _ascending(milestones: tuple[float, ...]) -> tuple[float, ...]:
    if list(milestones) != sorted(set(milestones)):
        raise ConfigError(f"milestones ascend, got {list(milestones)}")
    return milestones


# Both are shares of the run, so that a recipe keeps its shape when train.epochs changes.
Warmup = Annotated[float, Field(ge=0, lt=1)]
Milestones = Annotated[
    tuple[Annotated[float, Field(gt=0, lt=1, description="share of the run")], ...],
    AfterValidator(_ascending),
]
Factor = Annotated[float, Field(ge=0, le=1)]
Cycles = Annotated[int, Field(ge=1, description="how often the rate falls from its peak")]
Growth = Annotated[float, Field(ge=1, description="length of a cycle over that of the cycle before")]


def _rise(progress: float, warmup: float) -> float:
    """Linear from 0 to 1 over the warm-up, 1 after."""
    return progress / warmup if progress < warmup else 1.0


def _rest(progress: float, warmup: float) -> float:
    """How much of what follows the warm-up is over."""
    return max(0.0, (progress - warmup) / (1 - warmup))


def _anneal(start: float, end: float, progress: float) -> float:
    """Half a cosine from start to end."""
    return end + (start - end) / 2 * (1 + math.cos(math.pi * progress))


@SCHEDULES.register
def constant(progress: float, *, warmup: Warmup = 0.0) -> float:
    """The peak throughout."""
    return _rise(progress, warmup)


@SCHEDULES.register
def step(
    progress: float, *, warmup: Warmup = 0.0, milestones: Milestones = (0.3, 0.6, 0.8), gamma: Factor = 0.2
) -> float:
    """Multiplied by gamma at each milestone, a share of the run."""
    return _rise(progress, warmup) * gamma ** sum(progress >= milestone for milestone in milestones)


@SCHEDULES.register
def cosine(progress: float, *, warmup: Warmup = 0.0, floor: Factor = 0.0) -> float:
    """Half a cosine from the peak to floor x peak (Loshchilov and Hutter 2017)."""
    if progress < warmup:
        return _rise(progress, warmup)
    return _anneal(1.0, floor, _rest(progress, warmup))


@SCHEDULES.register
def cosine_restarts(
    progress: float, *, warmup: Warmup = 0.0, floor: Factor = 0.0, cycles: Cycles = 4, growth: Growth = 1.0
) -> float:
    """Half a cosine from the peak to floor x peak, `cycles` times (SGDR, Loshchilov and Hutter 2017).

    growth: each cycle is so many times as long as the one before; together they fill what follows the
    warm-up.
    """
    if progress < warmup:
        return _rise(progress, warmup)
    lengths = [growth**cycle for cycle in range(cycles)]
    # Rounded, or a restart that falls on a step might come one step late.
    place, cycle = round(_rest(progress, warmup) * sum(lengths), 9), 0
    while cycle < cycles - 1 and place >= round(sum(lengths[: cycle + 1]), 9):
        cycle += 1
    return _anneal(1.0, floor, min(1.0, (place - sum(lengths[:cycle])) / lengths[cycle]))


@SCHEDULES.register
def linear(progress: float, *, warmup: Warmup = 0.0, floor: Factor = 0.0) -> float:
    """A straight line from the peak to floor x peak."""
    if progress < warmup:
        return _rise(progress, warmup)
    return 1.0 + (floor - 1.0) * _rest(progress, warmup)


@SCHEDULES.register
def one_cycle(
    progress: float, *, warmup: Warmup = 0.3, start: Factor = 1 / 25, final: Factor = 1e-4 / 25
) -> float:
    """Half a cosine up from start x peak, then half a cosine down to final x peak (Smith and Topin 2018).

    Torch's OneCycleLR, whose first and last step are numbered 0 and total, over progress instead of steps.
    """
    if progress < warmup:
        return _anneal(start, 1.0, progress / warmup)
    return _anneal(1.0, final, _rest(progress, warmup))


def learning_rate(optim: OptimConfig, step: int, total: int) -> float:
    """The learning rate of a step, counted from 0, in a run of `total` steps."""
    return optim.lr * optim.schedule.build(step / total)
