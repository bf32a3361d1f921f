"""Profile of training: times of the parts of a step, compared with the device's peak speed."""

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
from cifarlab.training.state import BestState, LastState

# In the order of a step. The rest of a step is called `other`.
STEP_PARTS = ("batch", "teacher", "forward", "loss", "sums", "backward", "clip", "optimizer", "average")
WARM_UP, LEAST = 2, 3
# No further step is timed after this time, so slow steps are timed less often.
SECONDS = 60.0
# Steps in the trace: enough to see consecutive ones.
TRACED = 3
# Side of the square matrices for the measurement of peak speed: large enough to keep the device busy.
MATRIX_SIDE = {"cpu": 2048, "cuda": 8192}
PRODUCTS = 20


class Stopwatch:
    """Timer: `with watch("forward"):` adds the time of the body to `watch.seconds["forward"]`.

    On a GPU it waits for the device before and after the body, so that only work of the body is counted.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)

    @contextlib.contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """Add the time of the `with` body to a part."""
        begun = self.now()
        with record_function(part):
            yield
        self.seconds[part] += self.now() - begun

    def now(self) -> float:
        """Wait for the device, then return the clock's time in seconds."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


class EpochTimes(Record):
    """Seconds of an epoch's training, evaluation, and copying of the state for a checkpoint."""

    training: float
    evaluation: float
    checkpoint: float


class Profile(Record):
    """Where the time of a run goes. Times are in seconds; `step` and `parts` are medians.

    Attributes:
        hardware: Result of `describe_hardware`.
        precision: Autocast dtype, e.g. `bfloat16`.
        pictures: Pictures in a step.
        steps: Number of measurements of `step`.
        step: Time of a step that is timed as a whole.
        parts: {name in STEP_PARTS, or `other`: time of this part of a step}.
        images_per_second: `pictures` / `step`.
        flops: FLOPs of a step's matrix products and convolutions, forward and backward.
        peak_flops_per_second: Speed at which this device multiplies large matrices.
        floor: `flops` / `peak_flops_per_second`, the least possible time of a step.
        epoch: Time of each phase of an epoch.
        writing: Time in which a thread writes an epoch's checkpoint to disk. Training does not wait for it.
        epochs: Number of epochs of the run, if `train.patience` does not end it.
        run: Estimated time of these epochs.
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


def profile(
    config: Config, *, steps: int = 20, trace: Path | None = None, runs: Path = Path("runs")
) -> Profile:
    """Time some training steps of a configuration without writing a run.

    Args:
        config: The configuration.
        steps: Number of times to measure a whole step, and the parts of a step. Fewer if steps are slow.
        trace: File to write a trace to, for a viewer such as https://ui.perfetto.dev. None: no trace.
        runs: Folder of all runs, in which `teacher.run` is searched.

    Raises:
        ConfigError: As in `prepare`.
    """
    job = prepare(config, runs=runs)
    engine, plan = job.engine, job.engine.plan
    engine.model.train()
    engine.begin(0)
    if job.activations is not None:
        # Compute them now, so that no timed or counted step does.
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
    _bias: object,
    _stride: object,
    _padding: object,
    _dilation: object,
    transposed: bool,
    _output_padding: object,
    _groups: int,
    wanted: Sequence[bool],
    **_: object,
) -> int:
    """Count the FLOPs of a convolution's backward pass. torch's count is wrong for grouped convolutions."""
    places = images if transposed else grad
    return (wanted[0] + wanted[1]) * 2 * places[0] * math.prod(places[2:]) * math.prod(weight)


def count_flops(engine: Engine) -> int:
    """Train the first step; count the FLOPs of matrix products and convolutions."""
    counts = {torch.ops.aten.convolution_backward: _convolution_gradients}
    # Run eagerly, since FlopCounterMode does not see compiled kernels.
    with (
        torch.compiler.set_stance("force_eager"),
        FlopCounterMode(display=False, custom_mapping=counts) as counter,
    ):
        engine.step(engine.order(0), 0, 0)
    return counter.get_total_flops()


def _timed(engine: Engine, steps: int) -> tuple[list[float], dict[str, list[float]]]:
    """Time whole steps and, alternating with them, the parts of steps.

    Pictures of several steps may be augmented together. Each time is the mean over such a group of steps.
    Steps whose parts are timed run without a CUDA graph, which has no parts to time.

    Returns:
        A list with the seconds of a step for each measurement, and such a list for each part, by its name.
    """
    watch, coming = Stopwatch(engine.device), _whole_steps(engine)
    order = engine.order(0)
    together = max(1, engine.batches.size // engine.plan.step_size)

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
    """Cycle through the first epoch's step indices, without a shorter last step."""
    plan = engine.plan
    return itertools.cycle(range(max(1, plan.samples_per_epoch // plan.step_size)))


def _write_trace(engine: Engine, path: Path) -> None:
    """Write a trace of TRACED steps in Chrome's trace format."""
    # Without this the profiler prints its start and end to stderr, and a warning if there is no GPU.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    activities = [ProfilerActivity.CPU]
    if engine.device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    order = engine.order(0)
    # Not a Stopwatch, which waits for the device: the trace must show a step as it normally runs.
    engine.span = record_function
    with torch.profiler.profile(activities=activities) as found:
        for number in itertools.islice(_whole_steps(engine), TRACED):
            with record_function("step"):
                engine.step(order, 0, number)
    engine.span = unobserved
    path.parent.mkdir(parents=True, exist_ok=True)
    found.export_chrome_trace(str(path))


def peak_flops(precision: Precision) -> float:
    """Measure the FLOP/s of large matrix products; return the fastest of several."""
    device, side = precision.device, MATRIX_SIDE[precision.device.type]
    left, right = (torch.randn(side, side, device=device, dtype=precision.dtype) for _ in range(2))
    watch, times = Stopwatch(device), []
    for _ in range(PRODUCTS):
        begun = watch.now()
        torch.mm(left, right)
        times.append(watch.now() - begun)
    return 2 * side**3 / min(times)


def _scoring_seconds(engine: Engine, splits: Splits) -> float:
    """Time an epoch's evaluation.

    On a GPU, evaluate several times and return the last time: the first evaluations use no CUDA graph.
    """
    watch, seconds = Stopwatch(engine.device), 0.0
    for _ in range(UNCAPTURED + 2 if engine.device.type == "cuda" else 1):
        begun = watch.now()
        for split in (splits.val, splits.test):
            if split is not None:
                engine.score(split)
        seconds = watch.now() - begun
    return seconds


def _saving_seconds(engine: Engine) -> tuple[float, float]:
    """Time a checkpoint. Return the seconds of copying the state and of writing the files."""
    watch, waited, written = Stopwatch(engine.device), 0.0, 0.0
    # What is large in the two files.
    last = cast("LastState", {"engine": engine.state_dict()})
    best = cast("BestState", {"model": engine.evaluated.state_dict()})
    with (
        tempfile.TemporaryDirectory() as folder,
        Saver(Path(folder) / "best.pt", Path(folder) / "last.pt", engine.device) as saver,
    ):
        for _ in range(2):  # Twice, since the first snapshot also allocates memory.
            begun = watch.now()
            snapshot(last, best)
            waited = watch.now() - begun
            saver.submit(last, best)
            saver.flush()
            written = watch.now() - begun - 2 * waited
    return waited, written
