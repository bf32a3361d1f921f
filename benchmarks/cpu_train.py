"""Training speed on the CPU: a loop as tutorials write it, and this package's engine, in turn.

    python benchmarks/cpu_train.py --out benchmarks/results/cpu_train.json

Both train timm's ResNet-18 at 32 px with AdamW and clipped gradients, on the same pictures, from the same
weights. The tutorial's side is float32 through a DataLoader and works on one picture at a time, with
albumentations for the policy. It runs with each of `--workers`, and its better median counts.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from common import begin, parser, positive, spread, write
from torch import Tensor
from torch.utils.data import DataLoader, RandomSampler
from tutorial import TutorialModel, TutorialPictures, give_weights, quiet_worker

from cifarlab.config import Config
from cifarlab.config.recipes import read_recipe, resolve
from cifarlab.engine.batches import make_batch
from cifarlab.training.setup import Job, prepare

RECIPES = {"plain": "resnet18_baseline", "policy": "resnet18_augment"}
# Ratios of medians, and the least that the project asks of each.
REQUIRED = {"ours / tutorial, plain": 1.3, "ours / tutorial, policy": 1.3, "ours, policy / plain": 0.9}
# bfloat16 keeps 8 bits, so the two first losses may differ by a few parts in a hundred.
STEPS_A_TURN = 4
LOSS_TOLERANCE = 0.05


class Tutorial:
    """The tutorial's training loop: what Lightning does for it each step, without Lightning's own cost."""

    def __init__(self, config: Config, job: Job, num_workers: int, augmented: bool):
        self.pictures = TutorialPictures(job.splits.train, config.data.image_size, augmented)
        self.batch_size, self.num_workers = config.data.batch_size, num_workers
        self.clip = config.train.grad_clip or float("inf")
        self.model = TutorialModel(len(job.splits.classes))
        give_weights(job.engine.model, self.model)
        self.model.train()
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=config.optim.lr, weight_decay=config.optim.weight_decay
        )
        self.logged: list[float] = []

    def train(self, steps: int) -> float:
        """Seconds for `steps` steps, after one that is not counted: it waits for the workers to start."""
        # As many pictures as are used, so that workers do not go on into another contestant's turn.
        sampler = RandomSampler(self.pictures, num_samples=(steps + 1) * self.batch_size)
        loader = DataLoader(
            self.pictures,
            self.batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            worker_init_fn=quiet_worker,
        )
        batches = iter(loader)
        self.step(*next(batches))
        begun = time.perf_counter()
        for images, labels in batches:
            self.step(images, labels)
        return time.perf_counter() - begun

    def step(self, images: Tensor, labels: Tensor) -> None:
        loss = F.cross_entropy(self.model(images), labels)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.optimizer.step()
        self.logged.append(loss.item())  # what `self.log("loss", loss, prog_bar=True)` comes to


class Ours:
    """The package's engine, driven as `cifarlab.training.loop` drives it."""

    def __init__(self, job: Job):
        self.engine = job.engine
        self.engine.model.train()
        self.done = 0

    def train(self, steps: int) -> float:
        """Seconds for `steps` steps, after one that is not counted."""
        self.step()
        begun = time.perf_counter()
        for _ in range(steps):
            self.step()
        return time.perf_counter() - begun

    def step(self) -> None:
        epoch, within = divmod(self.done, self.engine.plan.steps_per_epoch)
        if within == 0:
            self.order = self.engine.order(epoch)
        self.engine.step(self.order, epoch, self.done)
        self.done += 1


def compare_first_losses(config: Config, job: Job, tutorial: Tutorial) -> dict[str, float]:
    """Both sides' losses on one batch from the same weights; raises SystemExit where they do not agree."""
    engine = job.engine
    positions = torch.arange(min(config.data.batch_size, len(engine.train_split)))
    batch = make_batch(
        engine.train_split, positions, config.data, config.train.seed, 0, len(job.splits.classes)
    )
    items = [tutorial.pictures[int(position)] for position in positions]
    images = torch.stack([torch.from_numpy(image) for image, _ in items])
    labels = torch.tensor([int(label) for _, label in items])
    # On copies: a forward pass in training mode moves the statistics of batch norm.
    with torch.no_grad():
        theirs = F.cross_entropy(copy.deepcopy(tutorial.model)(images), labels).item()
        with engine.precision.autocast():
            output = copy.deepcopy(engine.model)(engine.precision.layout(batch.images))
            ours = engine.objective(batch, output)["total"].item()
    found = {
        "tutorial": theirs,
        "ours": ours,
        "relative_difference": abs(ours - theirs) / theirs,
        "largest_difference_of_pictures": (images - batch.images).abs().max().item(),
    }
    print(f"first loss, same weights and pictures: tutorial {theirs:.4f} (float32), ours {ours:.4f} "
          f"({engine.precision}), {found['relative_difference']:.2%} apart")  # fmt: skip
    if found["relative_difference"] > LOSS_TOLERANCE or found["largest_difference_of_pictures"] > 1e-6:
        raise SystemExit("the two sides do not compute the same thing: no speeds are compared")
    return found


def measure(
    contestants: dict[str, Callable[[int], float]], rounds: int, steps: int, warmup: int, batch_size: int
) -> dict[str, list[float]]:
    """Images per second of each contestant in each round.

    A round's steps fall into short turns, each time another contestant first: what else the
    machine does changes within seconds, and a long turn would charge it to one contestant alone.
    """
    speeds: dict[str, list[float]] = {name: [] for name in contestants}
    for train in contestants.values():
        train(warmup)
    names = list(contestants)
    for number in range(rounds):
        seconds = dict.fromkeys(names, 0.0)
        turns = max(1, steps // STEPS_A_TURN)
        for turn in range(turns):
            first = (number * turns + turn) % len(names)
            for name in names[first:] + names[:first]:
                seconds[name] += contestants[name](steps // turns)
        for name in names:
            speeds[name].append(steps // turns * turns * batch_size / seconds[name])
        latest = ", ".join(f"{name} {values[-1]:.0f}" for name, values in speeds.items())
        print(f"round {number + 1}, img/s: {latest}", flush=True)
    return speeds


def compare(speeds: dict[str, list[float]], workers: list[int]) -> tuple[dict[str, str], dict[str, Any]]:
    """The tutorial's better contestant of each kind, and the ratios of medians and of each round."""
    chosen = {
        kind: max(
            (tutorial_name(kind, number) for number in workers),
            key=lambda name: statistics.median(speeds[name]),
        )
        for kind in RECIPES
    }
    pairs = {
        "ours / tutorial, plain": ("ours, plain", chosen["plain"]),
        "ours / tutorial, policy": ("ours, policy", chosen["policy"]),
        "ours, policy / plain": ("ours, policy", "ours, plain"),
    }
    ratios = {}
    for label, (above, below) in pairs.items():
        of_medians = statistics.median(speeds[above]) / statistics.median(speeds[below])
        of_rounds = [a / b for a, b in zip(speeds[above], speeds[below], strict=True)]
        ratios[label] = {
            "of_medians": round(of_medians, 3),
            "required": REQUIRED[label],
            "rounds": [round(ratio, 3) for ratio in of_rounds],
        }
    return chosen, ratios


def tutorial_name(kind: str, workers: int) -> str:
    return f"tutorial, {kind}, {workers} workers"


def main() -> None:
    options = parser((__doc__ or "").partition("\n")[0])
    options.add_argument("--rounds", type=positive, default=5)
    options.add_argument("--steps", type=positive, default=20, help="of a contestant in a round")
    options.add_argument("--warmup", type=positive, default=5, help="steps of each contestant before round 1")
    options.add_argument("--batch-size", type=positive, default=250)
    options.add_argument("--workers", type=int, nargs="+", default=[0, 2], help="of the DataLoader, to try")
    options.add_argument("--threads", type=positive, help="torch's threads; default: torch's own choice")
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    if given.tiny:
        given.rounds, given.steps, given.warmup, given.batch_size = 2, 2, 1, 10
    if given.threads:
        torch.set_num_threads(given.threads)
    about = f"batch {given.batch_size}, {given.steps} steps a round"
    pictures, overrides, found = begin(given, about, ("albumentations", "opencv-python-headless"))
    overrides += ["train.device=cpu", f"train.seed={given.seed}", f"data.batch_size={given.batch_size}"]
    configs = {kind: resolve(read_recipe(recipe), overrides) for kind, recipe in RECIPES.items()}
    jobs = {kind: prepare(config) for kind, config in configs.items()}
    contestants: dict[str, Callable[[int], float]] = {}
    first_losses = {}
    for kind, job in jobs.items():
        for number in given.workers:
            tutorial = Tutorial(configs[kind], job, number, augmented=kind == "policy")
            if not first_losses:
                first_losses = compare_first_losses(configs[kind], job, tutorial)
            contestants[tutorial_name(kind, number)] = tutorial.train
        contestants[f"ours, {kind}"] = Ours(job).train
    speeds = measure(contestants, given.rounds, given.steps, given.warmup, given.batch_size)
    chosen, ratios = compare(speeds, given.workers)
    print("\n| contestant | best img/s | median img/s |\n|---|---|---|")
    # The rounded figures, so that the table and the JSON never round apart.
    figures = {name: spread(values, digits=1) for name, values in speeds.items()}
    for name, speed in figures.items():
        print(f"| {name} | {speed['best']:.0f} | {speed['median']:.0f} |")
    print("\n| ratio of medians | measured | at least | single rounds |\n|---|---|---|---|")
    for label, ratio in ratios.items():
        rounds = f"{min(ratio['rounds']):.2f} to {max(ratio['rounds']):.2f}"
        print(f"| {label} | {ratio['of_medians']:.2f} | {ratio['required']} | {rounds} |")
    print(f"\nthe tutorial's better loader counts: {chosen['plain']}; {chosen['policy']}")
    result = {
        **found,
        "pictures": pictures,
        "precision": {"tutorial": "float32", "ours": str(jobs["plain"].engine.precision)},
        "seed": given.seed,
        "batch_size": given.batch_size,
        "steps_a_round": given.steps,
        "warmup_steps": given.warmup,
        "first_losses": first_losses,
        "images_per_second": figures,
        "tutorial_counted": chosen,
        "ratios": ratios,
    }
    write(given.out, "cpu_train", result)


if __name__ == "__main__":
    main()
