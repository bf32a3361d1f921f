"""Whole epochs of the tutorial's pipeline and of this package, in turns: training, evaluation, checkpoints.

    python benchmarks/compare_seed.py --out benchmarks/results/compare_seed.json

A: the tutorial's, re-written faithfully: Lightning's Trainer with its bar and logger, a DataLoader whose
workers resize each picture by OpenCV, float32 (TF32 on a GPU), the test set after each epoch by another
loader, and files of the last and of the best five epochs. A': the same with persistent workers, pinned
memory, channels_last, the precision that B has, and one file. B: the package on the recipe. The same
weights, pictures and order of batches. Before any time is printed: pictures and float32 gradients of the
first step, and the mean loss over 100 steps.
"""

from __future__ import annotations

import io
import math
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from common import begin, exact_float32, now, parser, positive, refuse, spread, when_saved, write
from rich.console import Console
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset
from tutorial import TutorialPictures
from tutorial_training import Contestant, InTurns, Tutorial

from cifarlab.config import Config
from cifarlab.config.recipes import read_recipe, resolve
from cifarlab.core.device import Precision, pick_device, pick_precision
from cifarlab.engine.step import Engine
from cifarlab.runs.folder import Run
from cifarlab.training import loop as training
from cifarlab.training.progress import TrainingProgress
from cifarlab.training.setup import prepare

RECIPE = "as_run/resnet18_baseline"
# Of B over A; what is asked of B over A' holds on a GPU.
REQUIRED = {"cpu": {32: 1.7, 224: 2.0}, "cuda": {32: 8.0, 224: 8.0}}
REQUIRED_TUNED = 1.5
LEVELS, GRADIENTS, LOSSES = 1.0, 1e-4, 5e-3
OURS = "B"
# Pixels a side above which pictures are few, and those of a GPU too: (training pictures up to it, above it).
LARGE = 64
PICTURES = {"cpu": (10_000, 408), "cuda": (50_000, 5000)}


class Clock(TrainingProgress):
    """Seconds of a run's epochs, until its last file is on the disk; without a first of several.

    In that one steps are captured or compiled. within: seconds of timed calls, of the same epochs.
    """

    def __init__(self, device: torch.device):
        # What a terminal would be shown is made, as the tutorial's bar is.
        super().__init__(Console(file=io.StringIO(), force_terminal=True))
        self.device, self.begun, self.within = device, 0.0, 0.0
        self.epochs = 0
        self.found: tuple[float, float] | None = None

    def start(self, epochs: int, first_epoch: int, steps_per_epoch: int, select: str) -> None:
        super().start(epochs, first_epoch, steps_per_epoch, select)
        self.begun, self.epochs = now(self.device), epochs

    def epoch(self, row: dict[str, Any], best: bool) -> None:
        super().epoch(row, best)
        if row["epoch"] == 1 and self.epochs > 1:
            self.begun, self.within, self.epochs = now(self.device), 0.0, self.epochs - 1

    def timed(self, call: Any) -> Any:
        """The same call, whose time counts as `within`."""

        def timed(*arguments: Any, **options: Any) -> Any:
            begun = time.perf_counter()
            found = call(*arguments, **options)
            self.within += time.perf_counter() - begun
            return found

        return timed

    def saved(self) -> None:
        """The epochs are over when their files are there, for the first time."""
        if self.found is None:
            whole = now(self.device) - self.begun
            self.found = whole / self.epochs, 1 - self.within / whole


def run_ours(config: Config, folder: Path) -> tuple[float, float]:
    """Train a whole run: (seconds an epoch, their share outside steps and evaluations)."""
    clock = Clock(pick_device(config.train.device))
    step, score = Engine.step, Engine.score
    Engine.step, Engine.score = clock.timed(step), clock.timed(score)
    try:
        with when_saved(clock.saved):
            training.train_run(config, Run(folder / "ours" / "0"), progress=clock, fresh=True)
    finally:
        Engine.step, Engine.score = step, score
    assert clock.found is not None, "a run waits for its files"
    return clock.found


class Contiguous(Precision):
    """Pictures in the memory format of the tutorial's."""

    def layout(self, images: Tensor) -> Tensor:
        return images.contiguous()


@exact_float32()
def check_equality(config: Config, steps: int) -> dict[str, float]:
    """Pictures and gradients of the first step, and the mean loss of `steps`, both sides in float32.

    pictures: the largest difference, in 8-bit levels: OpenCV rounds what it resizes. Gradients are those of
    the same pictures. Raises SystemExit where a difference is above LEVELS, GRADIENTS or LOSSES.
    """
    gradients, levels = _first_step(config)
    theirs, ours = _mean_losses(config, steps)
    losses = abs(ours - theirs) / theirs
    print(f"{config.data.image_size} px, float32: pictures at most {levels:.2f} of 255 levels apart, "
          f"gradients of the first step {gradients:.1e}, mean loss over {steps} steps {losses:.1e}",
          flush=True)  # fmt: skip
    # In this form NaN is refused, too.
    if not (levels <= LEVELS and gradients <= GRADIENTS and losses <= LOSSES):
        raise SystemExit("the two sides do not compute the same thing: no times are compared")
    return {"pictures": levels, "gradients": gradients, "losses": losses, "steps": steps}


def _first_step(config: Config) -> tuple[float, float]:
    """(the largest relative difference of a parameter's gradient, that of a picture in 8-bit levels)."""
    engine, tutorial, pictures = _both_sides(config)
    # channels_last sums in another order. At the edges of ReLUs and maxima, of which pictures seven times
    # enlarged have many, that alone moves single gradients by a percent.
    engine.precision = Contiguous(engine.device, engine.precision.dtype)
    engine.model.to(memory_format=torch.contiguous_format)  # pyright: ignore[reportCallIssue]
    order = engine.order(0)
    ((first, last),) = engine.plan.batches(0, len(order))
    batch = engine.batches.batch(order, 0, first, last)
    seen = engine.model.preprocess(batch.images)
    ((theirs, _),) = _in_batches(pictures, [order[first:last].tolist()])
    levels = 255 * (seen.cpu() - theirs).abs().max().item()
    engine.step(order, 0, 0)
    tutorial.train_on(DataLoader(TensorDataset(seen, batch.labels), len(seen)))
    return _largest_difference(engine, tutorial), levels


def _mean_losses(config: Config, steps: int) -> tuple[float, float]:
    """(the tutorial's, ours), each on its own pictures in its own memory format."""
    engine, tutorial, pictures = _both_sides(config)
    order, plan = engine.order(0), engine.plan
    for step in range(steps):
        engine.step(order, 0, step)
    positions = [plan.positions(order, step % plan.steps_per_epoch).tolist() for step in range(steps)]
    losses = tutorial.train_on(_in_batches(pictures, positions))
    assert len(losses) == steps, "each batch is a step"
    return statistics.fmean(losses), engine.means.read()["loss/total"]


def _both_sides(config: Config) -> tuple[Engine, Tutorial, TutorialPictures]:
    job = prepare(config)
    tutorial = Tutorial(config, job, tuned=False)
    job.engine.model.train()
    return job.engine, tutorial, TutorialPictures(job.splits.train, config.data.image_size, augmented=False)


def _in_batches(pictures: TutorialPictures, positions: list[list[int]]) -> DataLoader:
    """The pictures at these positions, a batch for each list of them."""
    return DataLoader(pictures, batch_sampler=positions)


def _largest_difference(engine: Engine, tutorial: Tutorial) -> float:
    """The largest relative difference of a parameter's gradient, clipped on both sides alike."""
    ours = dict(engine.model.named_parameters())
    names = {f"backbone.{name}": value for name, value in tutorial.model.backbone.named_parameters()}
    names |= {f"head.fc.{name}": value for name, value in tutorial.model.head[2].named_parameters()}
    assert names.keys() == ours.keys(), "every parameter of ours has its like"
    apart = []
    for name, theirs in names.items():
        one, other = ours[name].grad, theirs.grad
        assert one is not None, name
        assert other is not None, name
        other = other.to(one.device)  # Lightning brings a model back to the host.
        # The last batch norm of a block begins at zero, and with it the gradients of what comes before.
        norm = other.norm().item()
        apart.append((one - other).norm().item() / (norm or 1.0))
    return max(apart, key=lambda value: (math.isnan(value), value))


def measure(config: Config, workers: Sequence[tuple[int, int]], rounds: int) -> dict[str, Any]:
    """Seconds an epoch of every contestant in every round, in turns, each time another one first."""
    outside: list[float] = []
    with tempfile.TemporaryDirectory() as folder, ExitStack() as processes:
        runs: dict[str, InTurns] = {}
        for pair in workers:
            for name, tuned in (("A", False), ("A'", True)):
                name = f"{name}, {pair[0]} and {pair[1]} workers"
                runs[name] = InTurns(Contestant(config.dump(), pair, tuned, Path(folder) / name, rounds + 1))
                processes.callback(runs[name].stop)
        names = [*runs, OURS]
        seconds: dict[str, list[float]] = {name: [] for name in names}
        for number in range(-1, rounds):  # The first one warms up.
            first = number % len(names)
            for name in names[first:] + names[:first]:
                # What Lightning leaves to the system is written in nobody's turn; ours waits for its files.
                os.sync()
                if name == OURS:
                    spent, share = run_ours(config, Path(folder) / name)
                    outside += [share] if number >= 0 else []
                else:
                    spent = runs[name].run_epoch()
                if number >= 0:
                    seconds[name].append(spent)
            if number >= 0:
                latest = ", ".join(f"{name} {values[-1]:.2f}" for name, values in seconds.items())
                print(f"round {number + 1}, s an epoch: {latest}", flush=True)
    return {"seconds": seconds, "outside": outside}


def judged(found: dict[str, Any], device: str, size: int) -> dict[str, Any]:
    """Seconds, ratios of medians to A's and A''s better loader each, and the share that B spends outside."""
    seconds = found["seconds"]
    required = {"A": REQUIRED[device].get(size), "A'": REQUIRED_TUNED if device == "cuda" else None}
    ratios = {}
    for side, least in required.items():
        best = min(
            (name for name in seconds if name.startswith(f"{side},")),
            key=lambda name: statistics.median(seconds[name]),
        )
        rounds = [theirs / ours for theirs, ours in zip(seconds[best], seconds[OURS], strict=True)]
        ratios[f"{OURS} over {side}"] = {
            "counted": best,
            "of_medians": round(statistics.median(seconds[best]) / statistics.median(seconds[OURS]), 3),
            "required": least,
            "rounds": [round(ratio, 3) for ratio in rounds],
        }
    return {
        "seconds": {name: spread(values, digits=3, best=min) for name, values in seconds.items()},
        "ratios": ratios,
        # A GPU is not waited for in the steps: the host's share says nothing there.
        "outside": spread(found["outside"], digits=4, best=min) if device == "cpu" else None,
    }


def report(found: dict[str, Any], size: int) -> None:
    print(f"\n| {size} px, {found['pictures']:,} pictures | best, s an epoch | median, s |\n|---|---|---|")
    for name, values in found["seconds"].items():
        print(f"| {name} | {values['best']:.2f} | {values['median']:.2f} |")
    for name, ratio in found["ratios"].items():
        least, most = min(ratio["rounds"]), max(ratio["rounds"])
        print(f"{name}: {ratio['of_medians']:.2f} (rounds {least:.2f} to {most:.2f})")
    if found["outside"]:
        print(f"B outside steps and evaluations: {found['outside']['median']:.1%} of an epoch\n")


def _classes(pictures: int) -> int:
    """As few classes as hold so many pictures, of which each has 500: their test pictures are scored."""
    return min(100, max(2, -(-pictures // 500)))


@dataclass(frozen=True)
class Case:
    """What is timed at a size, and the steps in float32 that are held against each other before."""

    timed: Config
    exact: Config


def case(size: int, pictures: int, overrides: Sequence[str], batch: int, steps: int, tiny: bool) -> Case:
    words = [*overrides, f"data.image_size={size}", "data.val=0"]
    timed = [*words, f"data.limit={pictures}", f"data.batch_size={batch}"]
    if tiny:
        return Case(
            resolve(read_recipe(RECIPE), timed),
            resolve(read_recipe(RECIPE), [*timed, "train.precision=float32"]),
        )
    # A hundred steps of large pictures in whole batches would take a processor longer than all the rounds.
    few = min(batch, 16) if size > LARGE else batch
    # Each step on pictures of its own: float32's rounding grows to a percent of a single loss within 60
    # steps, of either sign; over pictures seen five times the mean was 0.6 % apart.
    shown = max(pictures, steps * few)
    exact = [*words, f"data.limit={shown}", f"data.classes={_classes(shown)}", f"data.batch_size={few}"]
    return Case(
        resolve(read_recipe(RECIPE), [*timed, f"data.classes={_classes(pictures)}"]),
        resolve(read_recipe(RECIPE), [*exact, "train.precision=float32"]),
    )


def main() -> None:
    options = parser((__doc__ or "").partition("\n")[0])
    options.add_argument("--rounds", type=positive, default=5)
    options.add_argument("--sizes", type=positive, nargs="+", default=[32, 224], help="pixels a side")
    options.add_argument("--pictures", type=positive, nargs="+", help="training pictures at each size")
    options.add_argument("--batch-size", type=positive, default=250)
    options.add_argument("--steps", type=positive, default=100, help="whose mean losses are compared")
    options.add_argument("--device", default="auto")
    options.add_argument("--engine", default="auto", help="of B: as train.engine")
    given = options.parse_args()
    on = pick_device(given.device)
    device = on.type
    workers = [(0, 0), (2, 2)] if device == "cpu" else [(16, 8)]
    if given.tiny:
        given.rounds, given.steps, given.sizes, given.batch_size, given.pictures = 1, 3, [32], 20, [60]
        workers = [(1, 1)]
    pictures = given.pictures or [PICTURES[device][size > LARGE] for size in given.sizes]
    if len(pictures) != len(given.sizes):
        refuse(options, f"--pictures: as many numbers as --sizes, {len(given.sizes)}")
    torch.set_float32_matmul_precision("high")  # TF32, where the device has it.
    packages = ("opencv-python-headless", "pytorch-lightning")
    data, overrides, found = begin(given, packages=packages, device=given.device)
    overrides += [f"train.device={given.device}", f"train.engine={given.engine}"]
    cases = {}
    for size, count in zip(given.sizes, pictures, strict=True):
        # Large pictures in large batches do not fit a small machine's memory.
        fits = max(1, 2_560_000 // size**2) if device == "cpu" else given.batch_size
        # Files are written beside the next epoch; one epoch waits for its own, little beside large pictures.
        epochs = 1 if size > LARGE and device == "cpu" else 2 if given.tiny else 4
        words = [*overrides, f"train.epochs={epochs}"]
        cases[size] = case(size, count, words, min(given.batch_size, fits), given.steps, given.tiny)
    equality = {size: check_equality(it.exact, given.steps) for size, it in cases.items()}
    results = {}
    for size, it in cases.items():
        results[str(size)] = {
            "pictures": it.timed.data.limit,
            "classes": it.timed.data.classes,
            "batch_size": it.timed.data.batch_size,
            "precision": {"A": "float32", "A', B": str(pick_precision(it.timed.train.precision, on))},
            "equality": {**equality[size], "batch_size": it.exact.data.batch_size},
            **judged(measure(it.timed, workers, given.rounds), device, size),
        }
        report(results[str(size)], size)
    write(given.out, "compare_seed", {**found, "pictures": data, "device": device, "sizes": results})


if __name__ == "__main__":
    main()
