"""Seconds an epoch of timm's own train script and of this package: the same model, batches and pictures.

    python benchmarks/compare_timm.py --timm-train train.py --out benchmarks/results/compare_timm.json

The script is not part of timm's wheel: it is train.py of https://github.com/huggingface/pytorch-image-models.
timm reads a folder of PNGs, written from our recipe's pictures at their size; ours reads them as always. Both
crop and flip (ours a shifted window, timm's script a resized one, the nearest that it has), train a ResNet-18
with AdamW and clipped gradients, score the validation pictures after each epoch and write a checkpoint; timm
with channels_last and bfloat16, plain and compiled, and on a CPU in float32 too. Whole commands are timed in
rounds, each with its own seed, at two numbers of epochs: their difference is what an epoch costs, without
start-up. The first command of each is timed apart: it compiles what later ones find compiled.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import begin, parser, positive, refuse, spread, write
from PIL import Image

from cifarlab.config import Config
from cifarlab.config.recipes import read_recipe, resolve
from cifarlab.core.device import pick_device
from cifarlab.data.splits import Split, load_splits

RECIPE = "resnet18_baseline"
# Each seed trains on the same pictures, which timm reads from one folder.
SAME = ("data.augment={crop: {padding: 4}, flip: {p: 0.5}}", "data.split_seed=0")
# A square of 64 to 100 % of the picture, resized to its size.
WINDOW = ("--scale", "0.64", "1", "--ratio", "1", "1")

# What trains for so many epochs, from such a seed.
Command = Callable[[int, int], list[str]]
# Two numbers of epochs, far enough apart that the difference is no start-up's noise: a GPU is through one of
# ours in a fraction of a second.
EPOCHS = {"cpu": {"ours": (1, 3), "timm": (1, 3)}, "cuda": {"ours": (5, 65), "timm": (1, 3)}}


def write_folder(config: Config, folder: Path) -> tuple[int, int, int]:
    """Write what the recipe reads as timm wants it: train/CLASS/*.png, validation/CLASS/*.png.

    Returns how many pictures there are in each, and of how many classes.
    """
    splits = load_splits(config.data, config.split_seed)
    assert splits.val is not None, "the recipe holds pictures out"
    for part, split in (("train", splits.train), ("validation", splits.val)):
        for label in range(len(splits.classes)):
            # A class without a picture has its folder: classes are numbered by them.
            (folder / part / f"{label:03d}").mkdir(parents=True)
        _write_split(split, folder / part)
    return len(splits.train), len(splits.val), len(splits.classes)


def _write_split(split: Split, folder: Path) -> None:
    for number, (row, label) in enumerate(zip(split.rows.tolist(), split.labels.tolist(), strict=True)):
        picture = split.images[row].permute(1, 2, 0).numpy()
        Image.fromarray(picture).save(folder / f"{label:03d}" / f"{number}.png")


def timm_command(
    script: Path, config: Config, num_classes: int, folder: Path, options: Sequence[str]
) -> list[str]:
    """timm's script told what the recipe says, but for epochs and seed. folder: of pictures and results."""
    size, optim = str(config.data.image_size), config.optim
    told = {
        "--data-dir": folder / "pictures", "--model": "resnet18", "--num-classes": num_classes,
        "--batch-size": config.data.batch_size, "--warmup-epochs": 0,
        "--opt": "adamw", "--lr": optim.lr, "--weight-decay": optim.weight_decay,
        "--clip-grad": config.train.grad_clip, "--color-jitter": 0, "--crop-pct": 1, "--smoothing": 0,
        # Constant: without a schedule the script fails.
        "--sched": "step", "--decay-epochs": 10**6,
        "--train-interpolation": "bilinear", "--amp-dtype": "bfloat16", "--log-interval": 10**6,
        "--checkpoint-hist": 1, "--output": folder / "timm",
        "--device": pick_device(config.train.device).type,
    }  # fmt: skip
    words = [str(word) for pair in told.items() for word in pair]
    return [sys.executable, str(script), *words, "--input-size", "3", size, size, *WINDOW, *options]


def seconds_of(command: Sequence[str]) -> float:
    """Of a whole command. Raises SystemExit with what it had to say, if it fails."""
    begun = time.perf_counter()
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise SystemExit(f"{' '.join(command)}\n{finished.stderr[-2000:]}")
    return time.perf_counter() - begun


@dataclass(frozen=True)
class Measured:
    """Seconds of one contestant: its first command, and by round an epoch and all that is none."""

    first: float
    epoch: list[float]
    rest: list[float]

    def figures(self) -> dict[str, Any]:
        spreads = {
            name: spread(values, digits=3, best=min)
            for name, values in (("epoch", self.epoch), ("rest", self.rest))
        }
        return {"first": round(self.first, 3), **spreads}


def measure(
    commands: Mapping[str, Command], epochs: Mapping[str, tuple[int, int]], rounds: int
) -> dict[str, Measured]:
    """Every contestant in every round, in turns, each time another one first."""
    found = {
        name: Measured(seconds_of(command(epochs[name][0], 0)), [], []) for name, command in commands.items()
    }
    names = list(commands)
    for seed in range(rounds):
        first = seed % len(names)
        for name in names[first:] + names[:first]:
            few, many = epochs[name]
            short, long = (seconds_of(commands[name](number, seed)) for number in (few, many))
            found[name].epoch.append((long - short) / (many - few))
            found[name].rest.append(short - few * found[name].epoch[-1])
        latest = ", ".join(f"{name} {it.epoch[-1]:.2f}" for name, it in found.items())
        print(f"round {seed + 1}, s an epoch: {latest}", flush=True)
    return found


def judged(found: Mapping[str, Measured]) -> dict[str, Any]:
    """Spreads of all seconds, and how many times as fast as each other contestant ours is."""
    figures, ratios = {name: it.figures() for name, it in found.items()}, {}
    for name in found.keys() - {"ours"}:
        rounds = [them / us for them, us in zip(found[name].epoch, found["ours"].epoch, strict=True)]
        ratios[f"ours over {name}"] = {
            "of_medians": round(figures[name]["epoch"]["median"] / figures["ours"]["epoch"]["median"], 3),
            "rounds": [round(ratio, 3) for ratio in rounds],
        }
    return {"seconds": figures, "ratios": dict(sorted(ratios.items()))}


def report(found: dict[str, Any], train: int, val: int) -> None:
    print(f"\n| {train:,} + {val:,} pictures | an epoch, median, s | start-up and the rest, median, s "
          "| first command, s |\n|---|---|---|---|")  # fmt: skip
    for name, figure in found["seconds"].items():
        medians = f"{figure['epoch']['median']:.2f} | {figure['rest']['median']:.2f}"
        print(f"| {name} | {medians} | {figure['first']:.2f} |")
    for name, ratio in found["ratios"].items():
        least, most = min(ratio["rounds"]), max(ratio["rounds"])
        print(f"{name}: {ratio['of_medians']:.2f} (rounds {least:.2f} to {most:.2f})")


def main() -> None:
    options = parser((__doc__ or "").partition("\n")[0])
    options.add_argument("--timm-train", type=Path, help="timm's train.py")
    options.add_argument("--rounds", type=positive, default=5)
    options.add_argument("--pictures", type=positive, help="training pictures; default: 5,000 on a CPU, all")
    options.add_argument("--workers", type=int, help="of timm's loaders; default: a core each, at most 8")
    options.add_argument("--device", default="auto")
    options.add_argument("--engine", default="auto", help="ours: as train.engine")
    given = options.parse_args()
    if given.timm_train is None or not given.timm_train.is_file():
        source = "https://github.com/huggingface/pytorch-image-models"
        refuse(options, f"--timm-train must be timm's train.py, which its wheel lacks: take it from {source}")
    device = pick_device(given.device).type
    workers = min(8, os.cpu_count() or 1) if given.workers is None else given.workers
    pictures, overrides, environment = begin(given, packages=("timm",), device=given.device)
    limit = given.pictures or ("null" if device == "cuda" else 5000)
    overrides += [*SAME, f"train.device={given.device}", f"train.engine={given.engine}"]
    overrides += ["data.batch_size=20", "data.limit=40"] if given.tiny else [f"data.limit={limit}"]
    config = resolve(read_recipe(RECIPE), overrides)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        train, val, num_classes = write_folder(config, folder / "pictures")
        if train % config.data.batch_size:
            refuse(options, f"{train} training pictures are not whole batches of {config.data.batch_size}; "
                            "timm's script leaves a short one out: choose other --pictures")  # fmt: skip

        def timm(*own: str) -> Command:
            told = [*own, "--channels-last", "--workers", str(workers)]
            fixed = timm_command(given.timm_train, config, num_classes, folder, told)
            return lambda epochs, seed: [*fixed, "--epochs", str(epochs), "--seed", str(seed)]

        def ours(epochs: int, seed: int) -> list[str]:
            words = [sys.executable, "-m", "cifarlab", "train", RECIPE, *overrides, f"train.epochs={epochs}"]
            return [*words, f"train.seed={seed}", "--fresh", "--runs", str(folder / "runs")]

        commands = {"timm": timm("--amp"), "timm, compiled": timm("--amp", "--torchcompile"), "ours": ours}
        if device == "cpu":
            commands = {"timm, float32": timm(), **commands}
        epochs = {name: EPOCHS[device]["ours" if name == "ours" else "timm"] for name in commands}
        found = judged(measure(commands, epochs, given.rounds))
    report(found, train, val)
    told = {"device": device, "train": train, "val": val, "epochs": epochs, "workers": workers}
    write(
        given.out,
        "compare_timm",
        {**environment, "pictures": pictures, **told, "config": config.dump(), **found},
    )


if __name__ == "__main__":
    main()
