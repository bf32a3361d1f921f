"""Seconds an epoch of timm's own train script and of this package: the same model, batches and pictures.

    python benchmarks/compare_timm.py --timm-train train.py --out benchmarks/results/compare_timm.json

The script is not part of timm's wheel: it is train.py of https://github.com/huggingface/pytorch-image-models.
timm reads a folder of PNGs, written from our recipe's pictures at their size; ours reads them as always. Both
flip, train a ResNet-18 with AdamW and clipped gradients, score the validation pictures after each epoch and
write a checkpoint; timm with channels_last and bfloat16, plain and compiled. Whole commands are timed, in
rounds, at two numbers of epochs: their difference is what an epoch costs, without start-up and reading. What
is compiled is compiled before.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from common import begin, parser, positive, spread, write
from PIL import Image

from cifarlab.config import Config
from cifarlab.data.splits import Split, load_splits
from cifarlab.device import pick_device
from cifarlab.recipes import read, resolve

RECIPE = "resnet18_baseline"
POLICY = "data.augment={flip: {p: 0.5}}"


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
    script: Path, config: Config, num_classes: int, folder: Path, epochs: int, options: Sequence[str]
) -> list[str]:
    """The command line of timm's script for what the recipe says. folder: of pictures and results."""
    size, optim = str(config.data.image_size), config.optim
    told = {
        "--data-dir": folder / "pictures", "--model": "resnet18", "--num-classes": num_classes,
        "--batch-size": config.data.batch_size, "--epochs": epochs, "--warmup-epochs": 0,
        "--opt": "adamw", "--lr": optim.lr, "--weight-decay": optim.weight_decay,
        "--clip-grad": config.train.grad_clip, "--color-jitter": 0, "--crop-pct": 1, "--smoothing": 0,
        # Constant: without a schedule the script fails.
        "--sched": "step", "--decay-epochs": 10**6,
        "--train-interpolation": "bilinear", "--amp-dtype": "bfloat16", "--log-interval": 10**6,
        "--checkpoint-hist": 1, "--output": folder / "timm",
        "--device": pick_device(config.train.device).type,
    }  # fmt: skip
    words = [str(word) for pair in told.items() for word in pair]
    lists = ["--input-size", "3", size, size, "--scale", "1", "1", "--ratio", "1", "1"]
    return [sys.executable, str(script), *words, *lists, "--amp", "--channels-last", *options]


def our_command(overrides: Sequence[str], runs: Path, epochs: int) -> list[str]:
    words = [sys.executable, "-m", "cifarlab", "train", RECIPE, *overrides, f"train.epochs={epochs}"]
    return [*words, "--fresh", "--runs", str(runs)]


def seconds_of(command: Sequence[str]) -> float:
    """Of a whole command. Raises SystemExit with what it had to say, if it fails."""
    begun = time.perf_counter()
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise SystemExit(f"{' '.join(command)}\n{finished.stderr[-2000:]}")
    return time.perf_counter() - begun


def measure(
    commands: Mapping[str, Callable[[int], list[str]]], few: int, many: int, rounds: int
) -> dict[str, list[dict[str, float]]]:
    """Seconds of an epoch, and of all that is none, of every contestant in every round, in turns."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in commands}
    names = list(commands)
    for command in commands.values():
        seconds_of(command(few))  # What is compiled for the first time is kept for the next.
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            short, long = (seconds_of(commands[name](epochs)) for epochs in (few, many))
            epoch = (long - short) / (many - few)
            found[name].append({"epoch": epoch, "rest": short - few * epoch})
        latest = ", ".join(f"{name} {values[-1]['epoch']:.2f}" for name, values in found.items())
        print(f"round {number + 1}, s an epoch: {latest}", flush=True)
    return found


def judged(found: Mapping[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Spreads of all seconds, and how many times as fast as each other contestant ours is."""
    figures = {
        name: {key: spread([each[key] for each in rounds], digits=3, best=min) for key in ("epoch", "rest")}
        for name, rounds in found.items()
    }
    ratios = {}
    for name in found.keys() - {"ours"}:
        rounds = [them["epoch"] / us["epoch"] for them, us in zip(found[name], found["ours"], strict=True)]
        ratios[f"ours over {name}"] = {
            "of_medians": round(figures[name]["epoch"]["median"] / figures["ours"]["epoch"]["median"], 3),
            "rounds": [round(ratio, 3) for ratio in rounds],
        }
    return {"seconds": figures, "ratios": dict(sorted(ratios.items()))}


def report(found: dict[str, Any], train: int, val: int) -> None:
    print(f"\n| {train:,} + {val:,} pictures | an epoch, median, s | start-up and the rest, median, s |")
    print("|---|---|---|")
    for name, figure in found["seconds"].items():
        print(f"| {name} | {figure['epoch']['median']:.2f} | {figure['rest']['median']:.2f} |")
    for name, ratio in found["ratios"].items():
        least, most = min(ratio["rounds"]), max(ratio["rounds"])
        print(f"{name}: {ratio['of_medians']:.2f} (rounds {least:.2f} to {most:.2f})")


def main() -> None:
    options = parser((__doc__ or "").partition("\n")[0])
    options.add_argument("--timm-train", type=Path, help="timm's train.py")
    options.add_argument("--rounds", type=positive, default=5)
    options.add_argument("--epochs", type=positive, nargs=2, default=[1, 3], help="the two that are compared")
    options.add_argument("--pictures", type=positive, help="training pictures; default: 5,000 on a CPU, all")
    options.add_argument("--workers", type=int, default=8, help="of timm's loaders")
    options.add_argument("--device", default="auto")
    options.add_argument("--engine", default="auto", help="ours: as train.engine")
    given = options.parse_args()
    if given.timm_train is None or not given.timm_train.is_file():
        options.error(
            "--timm-train must be timm's train.py, which its wheel lacks: take it from "
            "https://github.com/huggingface/pytorch-image-models, as it is for the timm installed here"
        )
    few, many = sorted(given.epochs)
    if few == many:
        options.error("--epochs needs two different numbers")
    device = pick_device(given.device).type
    pictures, overrides, environment = begin(given, device=given.device)
    limit = given.pictures or ("null" if device == "cuda" else 5000)
    overrides += [POLICY, f"train.device={given.device}", f"train.engine={given.engine}"]
    overrides += ["data.batch_size=20"] if given.tiny else [f"data.limit={limit}"]
    config = resolve(read(RECIPE), overrides)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        train, val, num_classes = write_folder(config, folder / "pictures")

        def timm(epochs: int, *more: str) -> list[str]:
            told = [*more, "--workers", str(given.workers)]
            return timm_command(given.timm_train, config, num_classes, folder, epochs, told)

        commands = {
            "timm": timm,
            "timm, compiled": lambda epochs: timm(epochs, "--torchcompile"),
            "ours": lambda epochs: our_command(overrides, folder / "runs", epochs),
        }
        found = judged(measure(commands, few, many, given.rounds))
    report(found, train, val)
    told = {"device": device, "train": train, "val": val, "epochs": [few, many], "workers": given.workers}
    write(
        given.out,
        "compare_timm",
        {**environment, "pictures": pictures, **told, "config": config.dump(), **found},
    )


if __name__ == "__main__":
    main()
