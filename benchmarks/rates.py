"""Rates of training on a quiet machine: what turns a run's pictures into minutes.

    python benchmarks/rates.py RECIPE... [--steps 30]

Times steps of a recipe through the real engine, after a warm-up, and one evaluation of what its epochs score.
Where the size of the pictures changes over the run, each size is timed, and counts for its share of the
steps. What an epoch needs before its first step (answers of a teacher) is timed apart, once. Kept in
benchmarks/results/rates.json by recipe, with hardware, commit and date.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from common import QUIET_LOAD, now, positive, read_recipe
from whole import ROOT, Result, without_machine

from cifarlab.config.recipes import resolve
from cifarlab.core.device import describe_hardware
from cifarlab.core.files import read_json, write_json
from cifarlab.engine.batches import num_views
from cifarlab.engine.step import Engine
from cifarlab.models.sizes import sizes_of_batch
from cifarlab.runs.environment import describe_environment
from cifarlab.training.setup import Job, prepare

RATES = ROOT / "benchmarks" / "results" / "rates.json"


@dataclass(frozen=True)
class Rate:
    """How fast a recipe trains on a quiet machine.

    Attributes:
        images_per_second: Training pictures, over the whole run, evaluations left out.
        evaluation_seconds: Of one evaluation after an epoch; 0 where epochs are not scored.
        preparation_seconds: Of what is computed once for each view of the pictures before it is trained on.
        views: How often that is; None: each epoch.
        steps: Timed steps of each size.
        by_size: Pictures a second by the sizes of a batch, e.g. `32` or `32, 64`.
    """

    images_per_second: float
    evaluation_seconds: float
    preparation_seconds: float
    views: int | None
    steps: int
    by_size: dict[str, float]
    cores: int
    processor: str
    commit: str
    time: str

    def minutes(self, pictures: int, evaluations: int, epochs: int) -> float:
        """Estimate the minutes of a run of so many pictures, evaluations and epochs."""
        times = epochs if self.views is None else min(self.views, epochs)
        seconds = pictures / self.images_per_second + evaluations * self.evaluation_seconds
        return (seconds + times * self.preparation_seconds) / 60


def read_rates(path: Path = RATES) -> dict[str, Rate]:
    """Read the rates by recipe; none where the file is missing."""
    if not path.exists():
        return {}
    keys = [field.name for field in fields(Rate)]
    return {name: Rate(**{key: rate[key] for key in keys}) for name, rate in read_json(path).items()}


def minutes_of(result: Result, rates: Mapping[str, Rate]) -> float | None:
    """The mean minutes of a result's runs; None where its recipe was not timed.

    A run's own seconds count only where it was timed on a quiet machine.
    """
    own = [run.minutes for run in result.runs]
    if all(minutes is not None for minutes in own):
        return sum(minutes for minutes in own if minutes is not None) / len(own)
    rate = rates.get(shlex.join([result.recipe, *result.overrides]))
    if rate is None:
        return None
    known = [rate.minutes(run.pictures, run.evaluations, run.epochs) for run in result.runs]
    return sum(known) / len(known)


def measure(job: Job, steps: int, warmup: int) -> dict[str, Any]:
    """Time a prepared run: the fields of Rate that are measured."""
    engine = job.engine
    begun = now(engine.device)
    said = engine.begin(0)
    preparation = now(engine.device) - begun if said else 0.0
    shares, starts = _sizes(engine)
    by_size, seconds_a_picture = {}, 0.0
    engine.model.train()
    order = engine.order(0)
    for key, share in shares.items():
        _train(engine, order, starts[key][:warmup] or starts[key])
        timed = [starts[key][i % len(starts[key])] for i in range(steps)]
        begun = now(engine.device)
        pictures = _train(engine, order, timed)
        engine.means.read()
        seconds = (now(engine.device) - begun) / pictures
        by_size[key] = round(1 / seconds, 2)
        seconds_a_picture += share * seconds
    config = engine.config
    scored = job.splits.test if config.train.select == "test" else job.splits.val
    evaluation = 0.0
    if scored is not None:
        engine.score(scored)
        begun = now(engine.device)
        engine.score(scored)
        evaluation = now(engine.device) - begun
    return {
        "images_per_second": round(1 / seconds_a_picture, 2),
        "evaluation_seconds": round(evaluation, 3),
        "preparation_seconds": round(preparation, 3),
        "views": num_views(config),
        "steps": steps,
        "by_size": by_size,
    }


def _train(engine: Engine, order: Any, steps: Sequence[int]) -> int:
    """Train the steps of a run that are numbered so, on the first epoch's pictures: how many pictures."""
    pictures = 0
    for step in steps:
        engine.step(order, 0, step)
        pictures += sum(last - first for first, last in engine.plan.batches(step, len(order)))
    return pictures


def _sizes(engine: Engine) -> tuple[dict[str, float], dict[str, list[int]]]:
    """{sizes of a batch: its share of the run's steps}, and {sizes: the numbers of a few such steps}.

    The last step of an epoch, which may be shorter, is left out where there are others.
    """
    plan, config = engine.plan, engine.config
    whole = [step for step in range(plan.total_steps) if (step + 1) % plan.steps_per_epoch]
    counts: Counter[str] = Counter()
    steps: dict[str, list[int]] = {}
    for step in whole or range(plan.total_steps):
        epoch, within = divmod(step, plan.steps_per_epoch)
        place = plan.samples_before(within)
        sizes = sizes_of_batch(config, plan.batch_size, epoch, step, plan.total_steps, place)
        key = ", ".join(str(size) for size in sorted({size or config.data.image_size for size, _ in sizes}))
        counts[key] += 1
        if len(steps.setdefault(key, [])) < 100:
            steps[key].append(step)
    total = sum(counts.values())
    return {key: count / total for key, count in counts.items()}, steps


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("recipe", nargs="+", help='a recipe, or "RECIPE key=value ..." in quotes')
    options.add_argument("--root", help="where CIFAR-100 lies")
    options.add_argument("--steps", type=positive, default=30, help="timed, of each size")
    options.add_argument("--warmup", type=positive, default=5)
    options.add_argument("--runs", type=Path, default=Path("runs"), help="where teachers are looked for")
    options.add_argument("--override", action="append", default=[], help="key=value, not part of the name")
    options.add_argument("--out", type=Path, default=RATES)
    given = options.parse_args()
    for text in given.recipe:
        recipe, *overrides = words = shlex.split(text)
        name = shlex.join(words)
        load = os.getloadavg()[0]
        root = [f"data.root={given.root}"] if given.root else []
        job = prepare(resolve(read_recipe(recipe), [*overrides, *root, *given.override]), runs=given.runs)
        env = without_machine(describe_environment(describe_hardware(job.engine.device)).to_json())
        found = measure(job, given.steps, given.warmup)
        hardware = env["hardware"]
        found |= {
            "cores": hardware["cores"],
            "processor": hardware["processor"],
            "commit": (env["git"] or {}).get("commit", ""),
            "time": env["time"],
        }
        kept = json.loads(given.out.read_text()) if given.out.exists() else {}
        extra = {"load_before": load, "hardware": hardware, "versions": env["versions"], "git": env["git"]}
        write_json(given.out, dict(sorted({**kept, name: {**asdict(Rate(**found)), **extra}}.items())))
        busy = f"; busy (load {load:.1f}): not worth keeping" if load > QUIET_LOAD else ""
        print(f"{name}: {found['images_per_second']:.0f} img/s{busy}", file=sys.stderr)


if __name__ == "__main__":
    main()
