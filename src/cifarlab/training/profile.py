"""Where the time of a step and of an epoch goes, beside what the machine's arithmetic alone would take."""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import cast

import torch
from torch.profiler import ProfilerActivity, record_function
from torch.utils.flop_counter import FlopCounterMode

from cifarlab.config import Config
from cifarlab.core.device import Precision, describe_hardware
from cifarlab.core.records import Record
from cifarlab.data.splits import Splits
from cifarlab.engine.graphs import WARM_UP as UNCAPTURED
from cifarlab.engine.sources import unobserved
from cifarlab.engine.step import Engine
from cifarlab.training.saver import Saver, snapshot
from cifarlab.training.setup import prepare

# In the order of a step; what a step does beside them is `other`.
STEP_PARTS = ("batch", "teacher", "forward", "loss", "sums", "backward", "clip", "optimizer", "average")
WARM_UP, LEAST = 2, 3
# Slow steps are timed less often: after so many seconds no further one begins.
SECONDS = 60.0
# Enough steps in the trace to see one beside the next.
TRACED = 3
# The side of the square matrices that the floor is measured with: large enough to keep the device busy.
MATRIX_SIDE = {"cpu": 2048, "cuda": 8192}
PRODUCTS = 20


class Stopwatch:
    """Seconds of each part of a step; on a GPU it waits for the device, so that a part's time is its own."""

    def __init__(self, device: torch.device):
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)

    @contextlib.contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        begun = self.now()
        with record_function(part):
            yield
        self.seconds[part] += self.now() - begun

    def now(self) -> float:
        """The clock, when all that was asked of the device is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


class EpochTimes(Record):
    """Seconds of an epoch's parts; `checkpoint` is the snapshot that training waits for."""

    training: float
    evaluation: float
    checkpoint: float


class Profile(Record):
    """Where the time of a run goes; times are in seconds, those of steps medians.

    Attributes:
        pictures: In a step.
        steps: How many were timed whole.
        step: Of one that nothing is measured in.
        parts: By STEP_PARTS and `other`.
        flops: Of a step's matrix products and convolutions.
        peak_flops_per_second: The rate at which this device multiplies large matrices.
        floor: What `flops` would take at that rate.
        writing: That a thread takes to write the checkpoint of an epoch.
        run: Of all `epochs`.
    """

    hardware: dict[str, str | int | None]
    precision: str
    pictures: int
    steps: int
    step: float
    parts: dict[str, float]
    images_per_second: float
    flops: int
    peak_flops_per_second: float
    floor: float
    epoch: EpochTimes
    writing: float
    epochs: int
    run: float


def profile(config: Config, steps: int = 20, trace: Path | None = None, runs: Path = Path("runs")) -> Profile:
    """Train some steps of a run that is not kept, and tell what they spend their time on.

    steps: how many are timed whole, each before one that is timed in parts; fewer where they are slow. trace:
    a file for a viewer (https://ui.perfetto.dev). Raises ConfigError as `prepare` does.
    """
    job = prepare(config, runs=runs)
    engine, plan = job.engine, job.engine.plan
    engine.model.train()
    engine.begin(0)
    if job.activations is not None:
        # Before anything is timed or counted: a step must not be the one that computes them.
        job.activations.begin(0)
    flops = count_flops(engine)
    whole, parts = _timed(engine, steps)
    if trace is not None:
        _write_trace(engine, trace)
    step, peak = median(whole), peak_flops(engine.precision)
    scoring, (saving, writing) = _scoring_seconds(engine, job.splits), _saving_seconds(engine)
    pictures = min(plan.step_size, plan.samples_per_epoch)
    training = plan.samples_per_epoch / pictures * step
    return Profile(
        hardware=cast("dict[str, str | int | None]", describe_hardware(engine.device)),
        precision=str(engine.precision),
        pictures=pictures,
        steps=len(whole),
        step=step,
        parts={part: median(parts[part]) for part in (*STEP_PARTS, "other") if part in parts},
        images_per_second=pictures / step,
        flops=flops,
        peak_flops_per_second=peak,
        floor=flops / peak,
        epoch=EpochTimes(training=training, evaluation=scoring, checkpoint=saving),
        writing=writing,
        epochs=config.train.last_epoch,
        run=config.train.last_epoch * (training + scoring + saving),
    )


def _convolution_gradients(
    grad: Sequence[int],
    images: Sequence[int],
    weight: Sequence[int],
    bias: object,
    stride: object,
    padding: object,
    dilation: object,
    transposed: bool,
    output_padding: object,
    groups: int,
    wanted: Sequence[bool],
    out_shape: object,
) -> int:
    """Count the operations of a convolution's gradients; torch's own count is wrong for groups."""
    places = images if transposed else grad
    return (wanted[0] + wanted[1]) * 2 * places[0] * math.prod(places[2:]) * math.prod(weight)


def count_flops(engine: Engine) -> int:
    """Of the matrix products and convolutions of the first step, forward and backward; trains that step."""
    counts = {torch.ops.aten.convolution_backward: _convolution_gradients}
    # Compiled kernels are not counted.
    with (
        torch.compiler.set_stance("force_eager"),
        FlopCounterMode(display=False, custom_mapping=counts) as counter,
    ):
        engine.step(engine.order(0), 0, 0)
    return counter.get_total_flops()


def _timed(engine: Engine, steps: int) -> tuple[list[float], dict[str, list[float]]]:
    """Seconds of steps that nothing is measured in, and of the parts of as many others, in turns.

    Each figure is the mean over as many steps as are augmented at once. A captured step has no parts: theirs
    are those of the same steps uncaptured.
    """
    watch, coming = Stopwatch(engine.device), _whole_steps(engine)
    order = engine.order(0)
    together = max(1, engine.views.size // engine.plan.step_size)

    def seconds_a_step() -> float:
        begun = watch.now()
        for number in itertools.islice(coming, together):
            engine.step(order, 0, number)
        return (watch.now() - begun) / together

    whole: list[float] = []
    parts: dict[str, list[float]] = defaultdict(list)
    first = watch.now()
    for number in range(WARM_UP + steps):
        spent = seconds_a_step()
        watch.seconds.clear()
        engine.span, graphs, engine.graphs = watch, engine.graphs, None
        parted = seconds_a_step()
        engine.span, engine.graphs = unobserved, graphs
        if number < WARM_UP:
            continue
        whole.append(spent)
        for part, seconds in watch.seconds.items():
            parts[part].append(seconds / together)
        parts["other"].append(parted - sum(watch.seconds.values()) / together)
        if len(whole) >= LEAST and watch.now() - first > SECONDS:
            break
    return whole, parts


def _whole_steps(engine: Engine) -> Iterator[int]:
    """Steps of the first epoch, again and again; its last may be shorter, and is left out."""
    plan = engine.plan
    return itertools.cycle(range(max(1, plan.samples_per_epoch // plan.step_size)))


def _write_trace(engine: Engine, path: Path) -> None:
    """Write what TRACED steps do, in Chrome's trace format."""
    # The profiler tells stderr of its own beginning and end, and complains where there is no GPU.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    activities = [ProfilerActivity.CPU]
    if engine.device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    order = engine.order(0)
    # The device is not waited for: the trace shows a step as it runs.
    engine.span = record_function
    with torch.profiler.profile(activities=activities) as found:
        for number in itertools.islice(_whole_steps(engine), TRACED):
            with record_function("step"):
                engine.step(order, 0, number)
    engine.span = unobserved
    path.parent.mkdir(parents=True, exist_ok=True)
    found.export_chrome_trace(str(path))


def peak_flops(precision: Precision) -> float:
    """FLOP/s at which the device multiplies large square matrices in this precision: the best of PRODUCTS."""
    device, side = precision.device, MATRIX_SIDE[precision.device.type]
    left, right = (torch.randn(side, side, device=device, dtype=precision.dtype) for _ in range(2))
    watch, times = Stopwatch(device), []
    for _ in range(PRODUCTS):
        begun = watch.now()
        torch.mm(left, right)
        times.append(watch.now() - begun)
    return 2 * side**3 / min(times)


def _scoring_seconds(engine: Engine, splits: Splits) -> float:
    """Of the evaluations at the end of an epoch: on a GPU of later ones, which may be captured by then."""
    watch, seconds = Stopwatch(engine.device), 0.0
    for _ in range(UNCAPTURED + 2 if engine.device.type == "cuda" else 1):
        begun = watch.now()
        for split in (splits.val, splits.test):
            if split is not None:
                engine.score(split)
        seconds = watch.now() - begun
    return seconds


def _saving_seconds(engine: Engine) -> tuple[float, float]:
    """Of an epoch that is the best so far: of the snapshot that it waits for, of writing both its files."""
    watch, waited, written = Stopwatch(engine.device), 0.0, 0.0
    states = {"engine": engine.state_dict()}, {"model": engine.evaluated.state_dict()}
    with (
        tempfile.TemporaryDirectory() as folder,
        Saver(Path(folder) / "best.pt", Path(folder) / "last.pt", engine.device) as saver,
    ):
        for _ in range(2):  # The first time there is no memory to copy to yet.
            begun = watch.now()
            snapshot(*states)
            waited = watch.now() - begun
            saver.submit(*states)
            saver.flush()
            written = watch.now() - begun - 2 * waited
    return waited, written
