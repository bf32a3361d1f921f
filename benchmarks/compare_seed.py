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
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from common import begin, parser, positive, spread, write
from rich.console import Console
from torch import Tensor
from torch.utils.data import DataLoader
from tutorial import TutorialModel, TutorialPictures, give_weights, quiet_worker

from cifarlab import train as training
from cifarlab.config import Config
from cifarlab.data.splits import Split
from cifarlab.device import pick_device
from cifarlab.engine import Engine
from cifarlab.prepare import Job, prepare
from cifarlab.progress import TrainingProgress
from cifarlab.recipes import read, resolve
from cifarlab.run import Run

RECIPE = "as_run/resnet18_baseline"
# Of B over A; what is asked of B over A' holds on a GPU.
REQUIRED = {"cpu": {32: 1.7, 224: 2.0}, "cuda": {32: 8.0, 224: 8.0}}
REQUIRED_TUNED = 1.5
GRADIENTS, LOSSES = 1e-4, 5e-3
KEPT = 5


class Tutorial:
    """An epoch as the tutorial's pipeline runs it. tuned: A' instead of A."""

    def __init__(self, config: Config, job: Job, workers: tuple[int, int], tuned: bool):
        self.tuned, self.device = tuned, job.engine.device
        self.clip = config.train.grad_clip or float("inf")
        self.model = TutorialModel(len(job.splits.classes))
        give_weights(job.engine.model, self.model)
        self.layout = torch.channels_last if tuned else torch.contiguous_format
        self.model.to(device=self.device).to(memory_format=self.layout)
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=config.optim.lr, weight_decay=config.optim.weight_decay
        )
        assert job.splits.test is not None, "the recipe scores on test"
        self.train_loader, self.test_loader = (
            self._loader(split, config, number)
            for split, number in zip((job.splits.train, job.splits.test), workers, strict=True)
        )
        self.kept: list[tuple[float, Path]] = []
        self.epoch = 0

    def _loader(self, split: Split, config: Config, workers: int) -> DataLoader:
        pictures = TutorialPictures(split, config.data.image_size, augmented=False)
        return DataLoader(
            pictures,
            config.data.batch_size,
            num_workers=workers,
            worker_init_fn=quiet_worker,
            persistent_workers=self.tuned and workers > 0,
            pin_memory=self.tuned and self.device.type == "cuda",
        )

    def run_epoch(self, folder: Path) -> float:
        """Seconds of an epoch: every training picture, every test picture, the files."""
        begun = _now(self.device)
        self.model.train()
        for images, labels in self.train_loader:
            self.step(images, labels)
        self._save(self.score(), folder)
        return _now(self.device) - begun

    def step(self, images: Tensor, labels: Tensor) -> float:
        images, labels = self._to_device(images), labels.to(self.device, non_blocking=True)
        with self._autocast():
            loss = F.cross_entropy(self.model(images), labels)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.optimizer.step()
        return loss.item()  # what `self.log("loss", loss, prog_bar=True)` comes to

    def _to_device(self, images: Tensor) -> Tensor:
        return images.to(self.device, non_blocking=True).contiguous(memory_format=self.layout)

    def _autocast(self) -> Any:
        return torch.autocast(self.device.type, dtype=torch.bfloat16) if self.tuned else nullcontext()

    @torch.no_grad()
    def score(self) -> float:
        self.model.eval()
        right = 0
        for images, labels in self.test_loader:
            with self._autocast():
                guesses = self.model(self._to_device(images)).argmax(-1)
            right += (guesses == labels.to(self.device)).sum().item()
        return right

    def _save(self, score: float, folder: Path) -> None:
        """A file of weights and optimizer for each of the best epochs, as Lightning's callback keeps them."""
        self.epoch += 1
        most = 1 if self.tuned else KEPT
        if len(self.kept) == most and score <= self.kept[-1][0]:
            return
        path = folder / f"{self.epoch}.ckpt"
        torch.save({"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}, path)
        self.kept = sorted([*self.kept, (score, path)], reverse=True)
        for _, old in self.kept[most:]:
            old.unlink()
        del self.kept[most:]


class Clock(TrainingProgress):
    """Seconds of the whole epochs of a run: from its start, or the end of the one before."""

    def __init__(self, device: torch.device):
        super().__init__(Console(quiet=True), quiet=True)
        self.device, self.last = device, 0.0
        self.seconds: list[float] = []

    def start(self, epochs: int, first_epoch: int, steps_per_epoch: int, select: str) -> None:
        super().start(epochs, first_epoch, steps_per_epoch, select)
        self.last = _now(self.device)

    def epoch(self, row: dict[str, Any], best: bool) -> None:
        self.seconds.append(_now(self.device) - self.last)
        self.last = _now(self.device)


class Ours:
    """A whole run of `cifarlab.train`, and what of its epochs is neither a step nor an evaluation."""

    def __init__(self, config: Config):
        self.config, self.device = config, pick_device(config.train.device)
        self.within = 0.0

    def run(self, folder: Path) -> tuple[float, float]:
        """(seconds of an epoch, the share of it outside steps and evaluations)."""
        clock, self.within = Clock(self.device), 0.0
        step, evaluate = Engine.step, training.evaluate
        Engine.step = self._timed(step)
        training.evaluate = self._timed(evaluate)
        try:
            training.train(self.config, Run(folder / "ours" / "0"), clock, fresh=True)
        finally:
            Engine.step, training.evaluate = step, evaluate
        whole = sum(clock.seconds)
        return whole / len(clock.seconds), 1 - self.within / whole

    def _timed(self, call: Any) -> Any:
        def timed(*arguments: Any, **options: Any) -> Any:
            # A GPU is not waited for: there the share is of the host's time.
            begun = time.perf_counter()
            found = call(*arguments, **options)
            self.within += time.perf_counter() - begun
            return found

        return timed


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


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
    contestants: dict[str, Any] = {
        f"{name}, {pair[0]} and {pair[1]} workers": Tutorial(config, job, pair, tuned)
        for pair in workers
        for name, tuned in (("A", False), ("A'", True))
    }
    contestants["B"] = Ours(config)
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    outside: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in contestants:
            (Path(folder) / name).mkdir()
        for number in range(-1, rounds):  # The first one warms up.
            names = list(contestants)
            first = number % len(names)
            for name in names[first:] + names[:first]:
                place, contestant = Path(folder) / name, contestants[name]
                if isinstance(contestant, Ours):
                    spent, share = contestant.run(place)
                    outside += [share] if number >= 0 else []
                else:
                    spent = contestant.run_epoch(place)
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
        rounds = [theirs / ours for theirs, ours in zip(seconds[best], seconds["B"], strict=True)]
        ratios[f"B over {side}"] = {
            "counted": best,
            "of_medians": round(statistics.median(seconds[best]) / statistics.median(seconds["B"]), 3),
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
            "train.epochs=1",
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
