"""What a run will take: minutes and memory, from a few small steps."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from cifarlab.device import peak_memory
from cifarlab.doctor.patient import Patient, first_pictures
from cifarlab.evaluate import evaluate
from cifarlab.progress import duration

# Of each batch size, the fastest counts: what else the machine does can only slow a step down.
_TIMES = 3
# What took so long is not timed again.
_SECONDS = 2.0


@dataclass(frozen=True)
class Estimate:
    """minutes: of training and its evaluations. peak_memory_bytes: the GPU's; on a CPU the process's."""

    minutes: float
    peak_memory_bytes: int
    device: str

    def record(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        memory = f"{self.peak_memory_bytes / 2**30:.1f} GiB on {self.device}"
        return f"about {duration(60 * self.minutes)} and {memory}"


def estimate(patient: Patient) -> Estimate | None:
    """Time steps of two sizes and lay a line through them; None where nobody knows how many steps there are.

    Trains the job's engine a little: it is of no use for a run after.
    """
    engine, plan, config = patient.job.engine, patient.case.plan, patient.config
    steps = patient.case.run_steps
    if plan is None or steps is None:
        return None
    large = max(4, patient.size)
    if engine.device.type == "cuda":  # There a step's time is that of its kernels' launches up to some size.
        large = max(4, min(plan.batch_size, len(engine.train)) // 2 * 2)
    small = large // 4 * 2
    step_of = dict.fromkeys((small, large), 0.0)
    engine.model.train()
    order = engine.order(0)
    _seconds(lambda: engine.step(order[:large], 0, 0), engine.device)  # The first one is slower.
    for size in step_of:
        step_of[size] = _seconds(lambda size=size: engine.step(order[:size], 0, 0), engine.device, _TIMES)
    # A step has a part that does not depend on its pictures, so more of them take less than in proportion;
    # but far less only by a busy machine's noise, which a line so long would multiply.
    most = step_of[large] / large
    slope = min(most, max(most / 2, (step_of[large] - step_of[small]) / (large - small)))
    step = step_of[large] + slope * (plan.step_size - large)
    split = first_pictures(engine.train, large)
    look = _seconds(
        lambda: evaluate(engine.model, split, engine.precision, config.data.image_size), engine.device, _TIMES
    ) / len(split)
    splits = patient.job.splits
    scored = sum(len(split) for split in (splits.val, splits.test) if split is not None)
    if not patient.data_at_hand:
        scored = round(plan.samples * config.data.val) if config.data.val < 1 else int(config.data.val)
    seconds = steps * step + look * (config.train.last_epoch * scored + plan.samples)
    more = patient.first.saved_bytes / patient.size * max(0, plan.batch_size - large)
    return Estimate(seconds / 60, round(peak_memory(engine.device) + more), str(engine.device))


def _seconds(call: Callable[[], object], device: torch.device, times: int = 1) -> float:
    """The least of up to `times` times that a call takes, the device's work included."""
    found: list[float] = []
    while len(found) < times and sum(found) < _SECONDS:
        begun = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        found.append(time.perf_counter() - begun)
    return min(found)
