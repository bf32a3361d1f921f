"""What a teacher costs once its answers are kept: an epoch of the KD recipe beside the plain student's.

python benchmarks/distillation_speed.py --out benchmarks/results/distillation_speed.json
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from common import begin, parser, positive, spread, write

from cifarlab.config.recipes import read_recipe, resolve
from cifarlab.core import checkpoints
from cifarlab.engine.step import Engine
from cifarlab.training.setup import prepare

TEACHER, STUDENT = "resnet50_pretrained_arcface_224x224", "resnet18_pretrained_arcface"
# The most that the project allows of the ratio of medians.
LIMIT = 1.3


def make_teacher(folder: Path, overrides: Sequence[str]) -> Path:
    """A teacher's checkpoint with random weights: what it says has no bearing on the time."""
    config = resolve(read_recipe(TEACHER), [*overrides, "model.backbone.pretrained=false"])
    job = prepare(config)
    state = {
        "model": job.engine.model.state_dict(),
        "config": config.dump(),
        "classes": list(job.splits.classes),
        "fingerprint": job.splits.fingerprint,
        "store_size": job.splits.train.images.shape[-1],
        "row": {"epoch": 1, "step": 1},
    }
    checkpoints.save_checkpoint(folder / "teacher.pt", state)
    return folder / "teacher.pt"


def train_epoch(engine: Engine, epoch: int) -> float:
    """Seconds of an epoch's training, what begins it included."""
    plan, begun = engine.plan, time.perf_counter()
    engine.begin(epoch)
    order = engine.order(epoch)
    for step in range(plan.steps_per_epoch):
        engine.step(order, epoch, epoch * plan.steps_per_epoch + step)
    engine.means.read()
    return time.perf_counter() - begun


def main() -> None:
    options = parser((__doc__ or "").partition("\n")[0])
    options.add_argument("--rounds", type=positive, default=7)
    options.add_argument("--pictures", type=positive, default=2500, help="in an epoch")
    given = options.parse_args()
    if given.tiny:
        given.rounds, given.pictures = 2, 20
    pictures, overrides, found = begin(given, f"{given.pictures} in an epoch")
    overrides += ["data.batch_size=10"] if given.tiny else []
    overrides += ["train.device=cpu", f"data.limit={given.pictures}"]
    size = ["data.image_size=64"] if given.tiny else []
    with tempfile.TemporaryDirectory() as name:
        os.environ["CIFARLAB_CACHE"] = name  # An empty one: the filling is measured, too.
        teacher = make_teacher(Path(name), [*overrides, *size])
        overrides += ["model.backbone.pretrained=false"]
        plain = prepare(resolve(read_recipe(STUDENT), overrides)).engine
        taught = prepare(resolve(read_recipe(f"{STUDENT}_kd"), [*overrides, f"teacher.run={teacher}"])).engine
        begun = time.perf_counter()
        print(taught.begin(0))
        fill = time.perf_counter() - begun
        seconds: dict[str, list[float]] = {"plain student": [], "distilled, answers kept": []}
        for number in range(given.rounds + 1):
            pair = list(zip(seconds, (plain, taught), strict=True))
            for label, engine in pair if number % 2 else reversed(pair):
                engine.model.train()
                seconds[label].append(train_epoch(engine, number))
    seconds = {label: values[1:] for label, values in seconds.items()}  # The first round warms up.
    figures = {label: spread(values, digits=3, best=min) for label, values in seconds.items()}
    one, other = figures.values()
    ratio = other["median"] / one["median"]
    rounds = [b / a for a, b in zip(one["rounds"], other["rounds"], strict=True)]
    print("\n| an epoch of | best, s | median, s |\n|---|---|---|")
    for label, figure in figures.items():
        print(f"| {label} | {figure['best']:.2f} | {figure['median']:.2f} |")
    apart = f"rounds {min(rounds):.2f} to {max(rounds):.2f}"
    print(f"\nratio of medians {round(ratio, 3):.2f} ({apart}), at most {LIMIT}")
    print(f"filling the cache: {fill:.1f} s for {given.pictures:,} pictures")
    result = {
        **found, "pictures": pictures, "epoch_seconds": figures,
        "ratio": {"of_medians": round(ratio, 3), "median_of_rounds": round(statistics.median(rounds), 3),
                  "required": LIMIT, "rounds": [round(value, 3) for value in rounds]},
        "fill": {"seconds": round(fill, 2), "pictures": given.pictures, "teacher": TEACHER},
    }  # fmt: skip
    write(given.out, "distillation_speed", result)


if __name__ == "__main__":
    main()
