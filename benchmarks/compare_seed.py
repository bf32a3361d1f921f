"""Whole epochs of the tutorial's pipeline and of this package, in turns: training, evaluation, checkpoints.

    python benchmarks/compare_seed.py --out benchmarks/results/compare_seed.json

A: the tutorial's, re-written faithfully: a DataLoader whose workers resize each picture by OpenCV, float32
(TF32 on a GPU), the loss read at each step, the test set after each epoch by another loader, and files for
the best five epochs. A': the same with persistent workers, pinned memory, bfloat16 and channels_last, and
one file an epoch. B: `cifarlab.train` on the recipe. The same weights, pictures and order of batches;
Lightning's own cost is left out of A and A'. Before any time is printed: float32 gradients of the first
step, and the mean loss over 100 steps.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from common import begin, exact_float32, parser, positive, spread, write
from rich.console import Console
from tutorial import Tutorial, TutorialPictures, now

from cifarlab import train as training
from cifarlab.config import Config
from cifarlab.device import pick_device
from cifarlab.engine import Engine
from cifarlab.prepare import prepare
from cifarlab.progress import TrainingProgress
from cifarlab.recipes import read, resolve
from cifarlab.run import Run

RECIPE = "as_run/resnet18_baseline"
# Of B over A; what is asked of B over A' holds on a GPU.
REQUIRED = {"cpu": {32: 1.7, 224: 2.0}, "cuda": {32: 8.0, 224: 8.0}}
REQUIRED_TUNED = 1.5
GRADIENTS, LOSSES = 1e-4, 5e-3
OURS = "B"


class Clock(TrainingProgress):
    """By epoch, seconds from the run's start or the end of the one before; and how many of timed calls."""

    def __init__(self, device: torch.device):
        super().__init__(Console(quiet=True), quiet=True)
        self.device, self.last, self.within = device, 0.0, 0.0
        self.epochs: list[tuple[float, float]] = []

    def start(self, epochs: int, first_epoch: int, steps_per_epoch: int, select: str) -> None:
        super().start(epochs, first_epoch, steps_per_epoch, select)
        self.last = now(self.device)

    def epoch(self, row: dict[str, Any], best: bool) -> None:
        self.epochs.append((now(self.device) - self.last, self.within))
        self.last, self.within = now(self.device), 0.0

    def timed(self, call: Any) -> Any:
        """The same call, whose time counts as `within`."""

        def timed(*arguments: Any, **options: Any) -> Any:
            # A GPU is not waited for: there it is the host's time.
            begun = time.perf_counter()
            found = call(*arguments, **options)
            self.within += time.perf_counter() - begun
            return found

        return timed


def run_ours(config: Config, folder: Path) -> tuple[float, float]:
    """A whole run of `cifarlab.train`: (seconds of an epoch, the share of it outside steps and evaluations).

    Of several epochs without the first, in which steps are captured or compiled.
    """
    clock = Clock(pick_device(config.train.device))
    step, evaluate = Engine.step, training.evaluate
    Engine.step, training.evaluate = clock.timed(step), clock.timed(evaluate)
    try:
        training.train(config, Run(folder / "ours" / "0"), clock, fresh=True)
    finally:
        Engine.step, training.evaluate = step, evaluate
    counted = clock.epochs[1:] or clock.epochs
    whole, within = (statistics.fmean(values) for values in zip(*counted, strict=True))
    return whole, 1 - within / whole


@exact_float32()
def check_equality(config: Config, steps: int) -> dict[str, float]:
    """Gradients of the first step and the mean loss of `steps`, both sides in float32 on the same batches.

    Raises SystemExit where they differ by more than GRADIENTS and LOSSES.
    """
    job = prepare(config)
    engine, tutorial = job.engine, Tutorial(config, job, (0, 0), tuned=False)
    engine.model.train()
    tutorial.model.train()
    order, plan = engine.order(0), engine.plan
    batches = [plan.positions(order, step % plan.steps_per_epoch) for step in range(steps)]
    pictures = TutorialPictures(job.splits.train, config.data.image_size, augmented=False)
    losses, largest = [], 0.0
    for number, batch in enumerate(batches):
        engine.step(order, 0, number)
        items = [pictures[int(position)] for position in batch]
        images = torch.stack([torch.from_numpy(image) for image, _ in items])
        losses.append(tutorial.step(images, torch.tensor([int(label) for _, label in items])))
        if number == 0:
            largest = _largest_difference(engine, tutorial)
    theirs, ours = statistics.fmean(losses), engine.means.read()["loss/total"]
    found = {"gradients": largest, "losses": abs(ours - theirs) / theirs, "steps": steps}
    print(f"{config.data.image_size} px, float32: gradients of the first step {largest:.1e} apart, "
          f"mean loss over {steps} steps {found['losses']:.1e}")  # fmt: skip
    if largest > GRADIENTS or found["losses"] > LOSSES:
        raise SystemExit("the two sides do not compute the same thing: no times are compared")
    return found


def _largest_difference(engine: Engine, tutorial: Tutorial) -> float:
    """The largest relative difference of a parameter's gradient, clipped on both sides alike."""
    ours = dict(engine.model.named_parameters())
    names = {f"backbone.{name}": value for name, value in tutorial.model.backbone.named_parameters()}
    names |= {f"head.fc.{name}": value for name, value in tutorial.model.head[2].named_parameters()}
    assert names.keys() == ours.keys(), "every parameter of ours has its like"
    apart = []
    for name, theirs in names.items():
        one, other = ours[name].grad, theirs.grad
        assert one is not None and other is not None, name
        apart.append(((one - other).norm() / other.norm()).item())
    return max(apart)


def measure(config: Config, workers: Sequence[tuple[int, int]], rounds: int) -> dict[str, Any]:
    """Seconds an epoch of every contestant in every round, in turns, each time another one first."""
    job = prepare(config)
    contestants = {
        f"{name}, {pair[0]} and {pair[1]} workers": Tutorial(config, job, pair, tuned)
        for pair in workers
        for name, tuned in (("A", False), ("A'", True))
    }
    seconds: dict[str, list[float]] = {name: [] for name in (*contestants, OURS)}
    outside: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        names = list(seconds)
        for name in names:
            (Path(folder) / name).mkdir()
        for number in range(-1, rounds):  # The first one warms up.
            first = number % len(names)
            for name in names[first:] + names[:first]:
                place = Path(folder) / name
                if name == OURS:
                    spent, share = run_ours(config, place)
                    outside += [share] if number >= 0 else []
                else:
                    spent = contestants[name].run_epoch(place)
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
        "outside": spread(found["outside"], digits=4, best=min),
    }


def report(found: dict[str, Any], size: int) -> None:
    print(f"\n| {size} px, {found['pictures']:,} pictures | best, s an epoch | median, s |\n|---|---|---|")
    for name, values in found["seconds"].items():
        print(f"| {name} | {values['best']:.2f} | {values['median']:.2f} |")
    for name, ratio in found["ratios"].items():
        least, most = min(ratio["rounds"]), max(ratio["rounds"])
        print(f"{name}: {ratio['of_medians']:.2f} (rounds {least:.2f} to {most:.2f})")
    print(f"B outside steps and evaluations: {found['outside']['median']:.1%} of an epoch\n")


def _classes(pictures: int) -> int:
    """As few classes as hold so many pictures, of which each has 500: their test pictures are scored."""
    return min(100, max(2, -(-pictures // 500)))


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
    device = pick_device(given.device).type
    workers = [(0, 0), (2, 2)] if device == "cpu" else [(16, 8)]
    pictures = given.pictures or ([5000, 500] if device == "cpu" else [50_000, 50_000])
    if given.tiny:
        given.rounds, given.steps, given.sizes, given.batch_size, pictures = 2, 3, [32], 20, [100]
        workers = [(0, 0)]
    torch.set_float32_matmul_precision("high")  # TF32, where the device has it.
    data, overrides, found = begin(given, packages=("opencv-python-headless",), device=given.device)
    results = {}
    for size, count in zip(given.sizes, pictures, strict=True):
        # Large pictures in large batches do not fit a small machine's memory.
        fits = max(1, 2_560_000 // size**2) if device == "cpu" else given.batch_size
        classes = 100 if given.tiny else _classes(count)
        words = [
            *overrides,
            f"data.image_size={size}",
            f"data.limit={count}",
            f"data.classes={classes}",
            f"data.batch_size={min(given.batch_size, fits)}",
            "data.val=0",
            f"train.epochs={1 if device == 'cpu' else 4}",
            f"train.device={given.device}",
            f"train.engine={given.engine}",
        ]
        config = resolve(read(RECIPE), words)
        # A hundred steps of large pictures in whole batches would take longer than all the rounds.
        few = min(config.data.batch_size, 16 if size > 64 and device == "cpu" else config.data.batch_size)
        exact = [*words, "train.precision=float32", f"data.batch_size={few}"]
        if not given.tiny:
            # Each step on pictures of its own: float32's rounding grows to a percent of a single loss within
            # 60 steps, of either sign; over pictures seen five times the mean was 0.6 % apart.
            shown = max(count, given.steps * few)
            exact += [f"data.limit={shown}", f"data.classes={_classes(shown)}"]
        results[str(size)] = {
            "pictures": count,
            "classes": classes,
            "batch_size": config.data.batch_size,
            "equality": {**check_equality(resolve(read(RECIPE), exact), given.steps), "batch_size": few},
            **judged(measure(config, workers, given.rounds), device, size),
        }
        report(results[str(size)], size)
    write(given.out, "compare_seed", {**found, "pictures": data, "device": device, "sizes": results})


if __name__ == "__main__":
    main()
