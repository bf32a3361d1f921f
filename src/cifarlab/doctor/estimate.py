"""Estimate of a run's duration and memory from a few small steps."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean

import torch

from cifarlab.core.device import peak_memory
from cifarlab.doctor.probe import Probe
from cifarlab.engine.batches import num_views
from cifarlab.engine.frozen import Activations
from cifarlab.engine.scoring import score_split
from cifarlab.models.sizes import sizes_of_batch
from cifarlab.training.progress import duration

# Timings of each batch size. The fastest counts, because other load on the machine only slows a step down.
_TIMES = 3
# Timing stops after this many seconds in total.
_SECONDS = 2.0
# In shorter steps, in seconds, the part that does not depend on the pictures may dominate.
_LONG = 1.0
# Number of sampled steps whose image sizes represent all steps.
_STEPS = 1000


@dataclass(frozen=True)
class CostEstimate:
    """The estimated cost of a run.

    Attributes:
        minutes: Duration of training and of its evaluations.
        peak_memory_bytes: Peak memory of the GPU. Without a GPU, that of the process.
        device: The device that was timed.
    """

    minutes: float
    peak_memory_bytes: int
    device: str

    def __str__(self) -> str:
        memory = f"{self.peak_memory_bytes / 2**30:.1f} GiB on {self.device}"
        return f"about {duration(60 * self.minutes)} and {memory}"


def estimate_cost(probe: Probe) -> CostEstimate | None:
    """Estimate the cost of a run by timing a few training steps.

    Steps with batches of several sizes are timed, and the times are extrapolated linearly. The steps change
    the weights of the probe's run, so the run must not be trained afterwards.

    Returns:
        The estimate, or None if the number of steps is unknown.
    """
    engine, plan, config = probe.job.engine, probe.case.plan, probe.config
    steps = probe.case.run_steps
    if plan is None or steps is None:
        return None
    whole = max(4, min(plan.batch_size, len(engine.train_split)) // 2 * 2)
    # On a GPU, kernel launches determine the time of a small step, so only the full batch size is timed.
    large = whole if engine.device.type == "cuda" else max(4, probe.size)
    engine.model.train()
    order, kept = engine.order(0), engine.activations
    if isinstance(kept, Activations):
        engine.activations = kept = kept.of_first(probe.size)
        order = order % probe.size

    def timed(size: int, times: int = _TIMES) -> float:
        return _seconds(lambda: engine.step(order[:size], 0, 0), engine.device, times)

    timed(large, 1)  # The first step is slower.
    small = large // 4 * 2
    lesser, greater = timed(small), timed(large)
    while greater < _LONG and large < whole:
        small, lesser = large, greater
        large = min(2 * large, whole)
        greater = timed(large)
    # Part of a step's time does not depend on its pictures, so the slope is below the time per picture. A far
    # lower slope is noise of a busy machine, which the extrapolation would amplify.
    most = greater / large
    slope = min(most, max(most / 2, (greater - lesser) / (large - small)))
    shown = plan.samples_per_epoch * config.train.last_epoch
    training = steps * (greater - slope * large) + slope * _times_the_first_size(probe) * shown
    split = engine.train_split.first(large)
    whole_look = look = _seconds(
        lambda: score_split(engine.model, split, engine.precision, config.data.image_size),
        engine.device,
        _TIMES,
    ) / len(split)
    if isinstance(kept, Activations):
        few = kept.splits.train
        look = _seconds(lambda: engine.score(few), engine.device, _TIMES) / len(few)
    splits = probe.job.splits
    scored = sum(len(split) for split in (splits.val, splits.test) if split is not None)
    if not probe.data_at_hand:
        scored = probe.case.num_val
    seconds = training + look * (config.train.last_epoch * scored + plan.samples)
    if kept is not None:
        # The frozen part is computed for each view, and for the unaugmented pictures that are scored.
        views = num_views(config) if config.data.augment else 0
        seconds += whole_look * (plan.samples * (1 + (views or 0)) + scored)
    more = probe.first.saved_bytes / probe.size * max(0, plan.batch_size - large)
    return CostEstimate(seconds / 60, round(peak_memory(engine.device) + more), str(engine.device))


def _times_the_first_size(probe: Probe) -> float:
    """Return the mean pixels per step, divided by the first step's pixels."""
    config, plan, steps = probe.config, probe.case.plan, probe.case.run_steps
    assert plan is not None
    assert steps is not None

    def pixels(step: int) -> int:
        groups = sizes_of_batch(config, plan.batch_size, 0, step, plan.total_steps, 0)
        return sum((size or config.data.image_size) ** 2 * sum(map(len, rows)) for size, rows in groups)

    return fmean(map(pixels, range(0, steps, -(-steps // _STEPS)))) / pixels(0)


def _seconds(call: Callable[[], object], device: torch.device, times: int = 1) -> float:
    """Time a call repeatedly; return the shortest time in seconds.

    The call is made `times` times, or fewer if `_SECONDS` have passed. The time includes work on the GPU.
    """
    found: list[float] = []
    while len(found) < times and sum(found) < _SECONDS:
        begun = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        found.append(time.perf_counter() - begun)
    return min(found)
