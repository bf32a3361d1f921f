"""Time to an accuracy from scratch, as the public speedruns time it: a speed recipe from a cold start.

python benchmarks/speed.py --recipe speed/cpu_70 --out benchmarks/results/speed_cpu_70.json

In time: reading the data, the whitening's statistics, every step, the checkpoints. Out of it, but printed: a
step at each size on drawn pictures, which makes the processor's kernels ready. The test set is read once,
after the last epoch, one look at each picture. With --hold-out the last epoch is scored on training pictures
that were held out, and the test set is not read: for tuning. The file of --out is written after each run, and
runs that are in it already are not made again.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import begin, parser, positive, read_recipe, when_saved, write

from cifarlab.config import Config
from cifarlab.config.recipes import resolve
from cifarlab.evaluation.score import evaluate
from cifarlab.runs.folder import Run
from cifarlab.runs.log import read_log
from cifarlab.training.loop import train_run
from cifarlab.training.progress import TrainingProgress
from cifarlab.training.setup import prepare

# What each recipe is made for: top-1 on test, and the minutes asked of two CPU cores with bf16.
TARGETS: dict[str, tuple[float, float | None]] = {
    "speed/cpu_70": (0.70, 20.0),
    "speed/cpu_75": (0.75, 50.0),
    "gpu_80": (0.80, None),
}
# What --tiny lays over a recipe, beside fewer pictures.
TINY = ("model.backbone.widths=[8, 8, 16]", "data.batch_size=50", "train.epochs=4")


def build(recipe: str, overrides: Sequence[str]) -> float:
    """Seconds to build the model and train it for a step at each size, on drawn pictures."""
    begun = time.perf_counter()
    data = resolve(read_recipe(recipe), overrides).data
    drawn = [f"data.dataset={{name: synthetic, train: {data.batch_size}, test: 100}}", "data.val=0"]
    for size in data.train_sizes:
        scale = f"data.multi_scale={{sizes: [{size}], per: batch, shares: null}}"
        engine = prepare(resolve(read_recipe(recipe), [*overrides, *drawn, scale])).engine
        engine.model.train()
        engine.step(engine.order(0), 0, 0)
    return time.perf_counter() - begun


def run_once(recipe: str, config: Config, folder: Path) -> dict[str, Any]:
    """Train from a cold start and score the last epoch, on test or on what was held out."""
    run = Run(folder, recipe=recipe)
    ended: list[float] = []
    begun = time.perf_counter()
    with when_saved(lambda: ended.append(time.perf_counter())):
        summary = train_run(config, run, progress=TrainingProgress())
    seconds = ended[0] - begun
    rows = read_log(run.metrics_path)
    found: dict[str, Any] = {
        "seed": config.train.seed,
        "seconds": round(seconds, 2),
        "epoch_seconds": [round(row["seconds"], 2) for row in rows],
    }
    if summary.val_top1 is not None:
        found["val_top1"] = summary.val_top1
    else:
        begun = time.perf_counter()
        found["test_top1"] = evaluate(folder, split="test", device=config.train.device).top1
        found["test_seconds"] = round(time.perf_counter() - begun, 2)
    kept = ("epoch", "step", "lr", "train/loss/total", "train/top1", "val/top1", "images_per_second")
    found["curve"] = [{key: row[key] for key in kept if key in row} for row in rows]
    return found


def earlier_runs(out: Path | None, same: dict[str, Any]) -> list[dict[str, Any]]:
    """The runs that a file of results holds. Raises SystemExit if they are of another kind than `same`."""
    if out is None or not out.is_file():
        return []
    found = json.loads(out.read_text())
    other = [key for key, value in same.items() if found.get(key) != json.loads(json.dumps(value))]
    if other:
        raise SystemExit(f"{out} holds runs with another {', '.join(other)}; name another file")
    return found["runs"]


def summarised(runs: Sequence[dict[str, Any]], scored: str) -> dict[str, Any]:
    """Means of the runs, and their table, printed."""
    top1 = statistics.mean(run[scored] for run in runs)
    seconds = statistics.mean(run["seconds"] for run in runs)
    print(f"\n| seed | {scored.partition('_')[0]} top-1 | preparing and training, s |\n|---|---|---|")
    for run in runs:
        print(f"| {run['seed']} | {100 * run[scored]:.2f} | {run['seconds']:.1f} |")
    print(f"\nmean of {len(runs)}: {100 * top1:.2f} % in {seconds:.1f} s ({seconds / 60:.2f} minutes)")
    return {"runs": runs, "mean": {scored: round(top1, 5), "seconds": round(seconds, 2)}}


def main() -> None:
    options = parser((__doc__ or "").partition("\n")[0])
    options.add_argument("--recipe", default="speed/cpu_70", choices=sorted(TARGETS))
    options.add_argument("--seeds", type=positive, default=1, help="runs, of the seeds 0, 1, ...")
    options.add_argument(
        "--hold-out", type=int, default=0, help="so many training pictures score in test's place"
    )
    options.add_argument("--device", default="cpu", help="as train.device")
    options.add_argument("--override", action="append", default=[], help="key=value for every run")
    given = options.parse_args()
    pictures, overrides, found = begin(given, given.recipe, device=given.device)
    own = [*(TINY if given.tiny else ()), f"train.device={given.device}", *given.override]
    overrides += [*own, f"data.val={given.hold_out}"]
    recipe = read_recipe(given.recipe)
    configs = [resolve(recipe, [*overrides, f"train.seed={seed}"]) for seed in range(given.seeds)]
    same = {
        "recipe": given.recipe, "pictures": pictures, "overrides": given.override, "hold_out": given.hold_out,
        "config": configs[0].dump(), "hardware": found["hardware"],
    }  # fmt: skip
    runs = earlier_runs(given.out, same)
    built = build(given.recipe, own)
    print(f"building, a step at each size on drawn pictures (not counted): {built:.1f} s")
    target, minutes = TARGETS[given.recipe]
    # What is asked of the time is asked of two cores.
    required = {"test_top1": target}
    if minutes and found["hardware"]["device"] == "cpu":
        required["seconds"] = 60 * minutes
    told = {**found, **same, "build_seconds": round(built, 2), "required": required}
    scored = "val_top1" if given.hold_out else "test_top1"
    with tempfile.TemporaryDirectory() as folder:
        for config in configs[len(runs) :]:
            runs.append(run_once(given.recipe, config, Path(folder) / given.recipe / str(config.train.seed)))
            write(given.out, "speed", {**told, **summarised(runs, scored)})
    asked = f", in {minutes:g} minutes on two CPU cores" if minutes else ""
    print(f"asked: {100 * target:g} %{asked}")


if __name__ == "__main__":
    main()
