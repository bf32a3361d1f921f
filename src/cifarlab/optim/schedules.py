"""Schedules, which map the elapsed share of the run to a factor of the peak learning rate."""

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
        raise ConfigError(f"milestones must ascend, got {list(milestones)}")
    return milestones


# Warm-up and milestones are shares of the run, so that a schedule keeps its shape when train.epochs changes.
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
    tuple[Annotated[float, Field(gt=0, lt=1)], ...],
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
    """Rise linearly to the peak during the warm-up, then fall.

    The result is a share of the peak: from 1 it falls to `floor`. `shape` falls from 1 to 0 as a function of
    the elapsed share of the time after the warm-up.
    """
    if progress < warmup:
        return progress / warmup
    return floor + (1 - floor) * shape((progress - warmup) / (1 - warmup))


def _half_cosine(progress: float) -> float:
    """Fall from 1 to 0 along half a cosine."""
    return (1 + math.cos(math.pi * progress)) / 2


@SCHEDULES.register
def constant(progress: float, *, warmup: Warmup = 0.0) -> float:
    """Stay at the peak after the warm-up.

    Args:
        warmup: Share of the run with a linear rise from 0 to the peak. 0 starts at the peak.
    """
    return _fall(progress, warmup, 1.0, lambda _: 0.0)


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
            milestone within the warm-up lowers the rate at once, so that the rise ends below the peak.
        floor: Lowest rate after the warm-up, as a share of the peak.
        milestones: When the rate is multiplied, as ascending shares of the run.
        gamma: Factor of the rate at each milestone.
    """
    left = gamma ** sum(progress >= milestone for milestone in milestones)
    # The floor is only a lower bound here: stages above it keep their rate. A milestone within the warm-up
    # takes effect at once.
    return progress / warmup * left if progress < warmup else max(floor, left)


@SCHEDULES.register
def cosine(progress: float, *, warmup: Warmup = 0.0, floor: Floor = 0.0) -> float:
    """Fall along half a cosine (Loshchilov and Hutter 2017).

    The rate falls from the peak to floor x peak.

    Args:
        warmup: Share of the run with a linear rise from 0 to the peak. 0 starts at the peak.
        floor: Lowest rate after the warm-up, as a share of the peak.
    """
    return _fall(progress, warmup, floor, _half_cosine)


@SCHEDULES.register
def cosine_restarts(
    progress: float, *, warmup: Warmup = 0.0, floor: Floor = 0.0, cycles: Cycles = 4, growth: Growth = 1.0
) -> float:
    """Fall along half a cosine, repeatedly (SGDR, Loshchilov and Hutter 2017).

    The rate falls from the peak to floor x peak in each cycle. Together, the cycles fill the time after the
    warm-up.

    Args:
        warmup: Share of the run with a linear rise from 0 to the peak. 0 starts at the peak.
        floor: Lowest rate after the warm-up, as a share of the peak.
        cycles: How often the rate falls from its peak.
        growth: Length of each cycle divided by that of the cycle before. 1 makes all equally long.
    """
    lengths = [growth**cycle for cycle in range(cycles)]

    def shape(rest: float) -> float:
        # Rounded, because a rounding error could delay a restart by one step.
        place, cycle = round(rest * sum(lengths), 9), 0
        while cycle < cycles - 1 and place >= round(sum(lengths[: cycle + 1]), 9):
            cycle += 1
        return _half_cosine(min(1.0, (place - sum(lengths[:cycle])) / lengths[cycle]))

    return _fall(progress, warmup, floor, shape)


@SCHEDULES.register
def linear(progress: float, *, warmup: Warmup = 0.0, floor: Floor = 0.0) -> float:
    """Fall from the peak to floor x peak in a straight line.

    Args:
        warmup: Share of the run with a linear rise from 0 to the peak. 0 starts at the peak.
        floor: Lowest rate after the warm-up, as a share of the peak.
    """
    return _fall(progress, warmup, floor, lambda rest: 1 - rest)


@SCHEDULES.register
def one_cycle(
    progress: float, *, warmup: Warmup = 0.3, start: Factor = 1 / 25, floor: Floor = 1e-4 / 25
) -> float:
    """Rise along half a cosine, then fall (Smith and Topin 2018).

    The fall is half a cosine, too. The shape is that of torch's OneCycleLR, as a function of the elapsed
    share of the run instead of the step.

    Args:
        warmup: Share of the run in which the rate rises to the peak. 0 starts at the peak.
        start: Rate at the start, as a share of the peak.
        floor: Rate at the end, as a share of the peak.
    """
    if progress < warmup:
        return 1 + (start - 1) * _half_cosine(progress / warmup)
    return _fall(progress, warmup, floor, _half_cosine)


def learning_rate(optim: OptimConfig, step: int, total: int) -> float:
    """Return the learning rate of step `step`, counted from 0.

    `total` is the number of steps of the run.
    """
    return optim.lr * optim.schedule.build(step / total)
