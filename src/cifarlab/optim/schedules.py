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
Warmup = Annotated[
    float,
    Field(
        ge=0,
        lt=1,
        description="Share of the run with a linear rise from 0 to the peak. 0 starts at the peak.",
    ),
]
Floor = Annotated[
    float, Field(ge=0, le=1, description="Lowest rate after the warm-up, as a share of the peak.")
]
Milestones = Annotated[
    tuple[Annotated[float, Field(gt=0, lt=1, description="share of the run")], ...],
    AfterValidator(_ascending),
]
Factor = Annotated[float, Field(ge=0, le=1)]
Cycles = Annotated[int, Field(ge=1, le=100, description="How often the rate falls from its peak.")]
Growth = Annotated[
    float,
    Field(
        ge=1,
        le=10,
        description="Length of each cycle divided by that of the cycle before. 1 makes all equally long.",
    ),
]


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
    """Stay at the peak after the warm-up."""
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
    """Multiply the rate by gamma at each milestone.

    Args:
        warmup: Share of the run in which the rate rises linearly from 0 to the peak. 0 starts at the peak. A
            milestone within the warm-up lowers the rate from there on.
        floor: Lowest rate after the warm-up, as a share of the peak.
        milestones: When the rate is multiplied, as ascending shares of the run.
        gamma: Factor of the rate at each milestone.
    """
    left = gamma ** sum(progress >= milestone for milestone in milestones)
    # The floor is a bound here: every stage above it keeps its rate. A milestone in the warm-up counts there.
    return progress / warmup * left if progress < warmup else max(floor, left)


@SCHEDULES.register
def cosine(progress: float, *, warmup: Warmup = 0.0, floor: Floor = 0.0) -> float:
    """Fall from the peak to floor x peak along half a cosine (Loshchilov and Hutter 2017)."""
    return _fall(progress, warmup, floor, _half_cosine)


@SCHEDULES.register
def cosine_restarts(
    progress: float, *, warmup: Warmup = 0.0, floor: Floor = 0.0, cycles: Cycles = 4, growth: Growth = 1.0
) -> float:
    """Fall along half a cosine to floor x peak, repeatedly (SGDR, Loshchilov and Hutter 2017).

    Each cycle starts again at the peak. Together, the cycles fill what follows the warm-up.
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
    """Fall from the peak to floor x peak in a straight line."""
    return _fall(progress, warmup, floor, lambda rest: 1 - rest)


@SCHEDULES.register
def one_cycle(
    progress: float, *, warmup: Warmup = 0.3, start: Factor = 1 / 25, floor: Floor = 1e-4 / 25
) -> float:
    """Rise to the peak along half a cosine, then fall (Smith and Topin 2018).

    The fall is half a cosine, too. The rate is that of torch's OneCycleLR, with the first step as number 0
    and the last as number total. Here it depends on the share of the run that is over instead of the step.

    Args:
        warmup: Share of the run in which the rate rises. 0 starts at the peak.
        start: Rate at the start, as a share of the peak.
        floor: Rate at the end, as a share of the peak.
    """
    if progress < warmup:
        return 1 + (start - 1) * _half_cosine(progress / warmup)
    return _fall(progress, warmup, floor, _half_cosine)


def learning_rate(optim: OptimConfig, step: int, total: int) -> float:
    """The learning rate of a step, counted from 0, in a run of `total` steps."""
    return optim.lr * optim.schedule.build(step / total)
