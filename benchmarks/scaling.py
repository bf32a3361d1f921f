"""How an epoch's time and a run's memory grow: with pictures, epochs, the batch, pixels, classes and seeds.

    python benchmarks/scaling.py --out benchmarks/results/scaling.json

Whole runs of `resnet18_baseline`, one after the other, each in a process of its own, in
rounds. A line is laid through the seconds against pictures and epochs: cost linear in both.

Seeds: so many runs in turn, with all threads, and at once, with their share of them, round by round in turns.
Two times of each: whole, from the call of `train_all` to its end, the start of processes included; and
training alone (of runs in turn the sum, of runs at once the longest), to which long runs come near. Memory of
runs at once: the sum of every process's peak, that of the one which starts them included.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import numpy as np
from common import begin, parser, positive, spread, write

RECIPE = "resnet18_baseline"
BASE = {"pictures": 2000, "epochs": 2, "batch": 250, "pixels": 32, "classes": 100}
# What is varied, alone.
VARIED = {
    "pictures": (1000, 2000, 4000, 8000),
    "epochs": (1, 2, 4, 8),
    "batch": (50, 100, 250, 500),
    "pixels": (32, 48, 64, 96),
    "classes": (10, 50, 100),
}
LINEAR = ("pictures", "epochs")
# Seeds that are trained together.
SEEDS = (2, 4)
TINY = ({"pictures": 40, "epochs": 1, "batch": 20, "pixels": 16, "classes": 100}, {"epochs": (1, 2, 3)}, (2,))

# A process of its own: peak memory is a process's.
SCRIPT = """
import json, sys, tempfile, time
from pathlib import Path
from rich.console import Console
from cifarlab.core.device import peak_memory, pick_device
from cifarlab.training.progress import TrainingProgress
from cifarlab.config.recipes import read_recipe, resolve
from cifarlab.runs.folder import Run
from cifarlab.training.saver import Saver
from cifarlab.training.loop import train_run

class Clock(TrainingProgress):
    def __init__(self):
        super().__init__(Console(quiet=True), quiet=True)
    def start(self, *arguments):
        super().start(*arguments)
        self.begun = time.perf_counter()

clock, flush, seconds = Clock(), Saver.flush, []

def flushed(saver):
    flush(saver)
    seconds.append(time.perf_counter() - clock.begun)

Saver.flush = flushed  # The last file is written by a thread; first of all comes the end of the epochs.
with tempfile.TemporaryDirectory() as folder:
    run = Run(Path(folder) / "scaling" / "0")
    train_run(resolve(read_recipe(sys.argv[1]), sys.argv[2:]), run, progress=clock)
print(json.dumps({"seconds": seconds[0], "peak_memory_bytes": peak_memory(pick_device("auto"))}))
"""


SEEDS_SCRIPT = """
import json, sys, tempfile, time
from pathlib import Path
from cifarlab.core.device import peak_memory, pick_device
from cifarlab.training.progress import TrainingProgress
from cifarlab.config.recipes import read_recipe, resolve
from cifarlab.runs.folder import Run
from cifarlab.training.several_runs import Task, train_all

seeds, at_once, recipe = int(sys.argv[1]), int(sys.argv[2]), read_recipe(sys.argv[3])
configs = [resolve(recipe, [*sys.argv[4:], f"train.seed={seed}"]) for seed in range(seeds)]
with tempfile.TemporaryDirectory() as folder:
    runs = [Run(Path(folder) / "scaling" / str(seed)) for seed in range(seeds)]
    begun = time.perf_counter()
    train_all(map(Task, configs, runs), at_once, TrainingProgress(quiet=True))
    whole = time.perf_counter() - begun
    found = [run.finished() for run in runs]
seconds, memory = ([getattr(each, key) for each in found] for key in ("seconds", "peak_memory_bytes"))
in_turn = at_once == 1
print(json.dumps({
    "whole": whole,
    "training": sum(seconds) if in_turn else max(seconds),
    "peak_memory_bytes": max(memory) if in_turn else sum(memory) + peak_memory(pick_device("auto")),
}))
"""


def run(setting: dict[str, int], overrides: list[str]) -> dict[str, float]:
    """Seconds of a run's epochs, evaluations and checkpoints included, and the process's peak memory."""
    return measured_by(SCRIPT, [RECIPE, *words_of(setting, overrides)])


def run_seeds(seeds: int, at_once: int, setting: dict[str, int], overrides: list[str]) -> dict[str, float]:
    """Seconds of several seeds' runs: whole, and of their training alone; and what memory they take."""
    return measured_by(SEEDS_SCRIPT, [str(seeds), str(at_once), RECIPE, *words_of(setting, overrides)])


def words_of(setting: dict[str, int], overrides: list[str]) -> list[str]:
    return [
        *overrides,
        f"data.limit={setting['pictures']}",
        f"data.batch_size={setting['batch']}",
        f"data.image_size={setting['pixels']}",
        f"data.classes={setting['classes']}",
        f"train.epochs={setting['epochs']}",
    ]


def measured_by(script: str, words: list[str]) -> dict[str, float]:
    """What a script prints last, run in a process of its own."""
    finished = subprocess.run(
        [sys.executable, "-c", script, *words], capture_output=True, text=True, check=False
    )
    if finished.returncode:
        raise SystemExit(finished.stderr)
    return json.loads(finished.stdout.splitlines()[-1])


def measure_seeds(
    counts: list[int], rounds: int, setting: dict[str, int], overrides: list[str]
) -> dict[str, Any]:
    """By number of seeds: seconds and memory in turn and at once, and how many times faster at once is."""
    ways = {"in turn": lambda seeds: 1, "at once": lambda seeds: seeds}
    measured: dict[tuple[int, str], list[dict[str, float]]] = {(n, way): [] for n in counts for way in ways}
    for number in range(rounds):
        for seeds in counts:
            for way in ways if number % 2 == 0 else reversed(ways):
                measured[seeds, way].append(run_seeds(seeds, ways[way](seeds), setting, overrides))
    results: dict[str, Any] = {}
    for seeds in counts:
        found: dict[str, Any] = {
            way: {
                kind: spread([each[kind] for each in measured[seeds, way]], digits=3, best=min)
                for kind in ("whole", "training")
            }
            for way in ways
        }
        medians = {way: {kind: found[way][kind]["median"] for kind in found[way]} for way in ways}
        for way in ways:
            found[way]["peak_memory_bytes"] = max(each["peak_memory_bytes"] for each in measured[seeds, way])
        found["times_faster"] = {
            kind: round(medians["in turn"][kind] / medians["at once"][kind], 3) for kind in medians["in turn"]
        }
        results[str(seeds)] = found
        for way in ways:
            print(f"| {seeds} seeds {way} | {medians[way]['whole']:.2f} s | "
                  f"training {medians[way]['training']:.2f} s | "
                  f"{found[way]['peak_memory_bytes'] / 1e9:.2f} GB |")  # fmt: skip
        print(f"{seeds} seeds at once: training {found['times_faster']['training']:.2f} times as fast")
    return results


def line(values: list[int], seconds: list[float]) -> dict[str, float]:
    """The least squares line through seconds, and the largest share by which a point is off it."""
    slope, start = np.polyfit(values, seconds, 1)
    off = max(
        abs(second - start - slope * value) / second for value, second in zip(values, seconds, strict=True)
    )
    return {"slope": float(slope), "start": float(start), "largest_deviation": float(off)}


def main() -> None:
    options = parser((__doc__ or "").partition("\n")[0])
    options.add_argument("--rounds", type=positive, default=3)
    options.add_argument(
        "--seeds", type=positive, nargs="*", default=SEEDS, help="how many are trained at once"
    )
    options.add_argument("--engine", default="auto", help="as train.engine")
    options.add_argument("--vary", choices=VARIED, nargs="*", default=[*VARIED], help="what else is varied")
    given = options.parse_args()
    base, varied, seeds = TINY if given.tiny else (BASE, VARIED, given.seeds)
    varied = {key: values for key, values in varied.items() if key in given.vary}
    rounds = 1 if given.tiny else given.rounds
    pictures, overrides, found = begin(given, f"{RECIPE}, {base}", device="auto")
    overrides.append(f"train.engine={given.engine}")
    settings = [(key, value) for key, values in varied.items() for value in values]
    measured: dict[tuple[str, int], list[dict[str, float]]] = {setting: [] for setting in settings}
    for _ in range(rounds):
        for key, value in settings:
            measured[key, value].append(run({**base, key: value}, overrides))
    results: dict[str, Any] = {}
    for key, values in varied.items():
        rows = {}
        for value in values:
            runs = measured[key, value]
            rows[str(value)] = {
                "seconds": spread([each["seconds"] for each in runs], digits=3, best=min),
                "peak_memory_bytes": max(each["peak_memory_bytes"] for each in runs),
            }
            print(f"| {key} {value} | {rows[str(value)]['seconds']['median']:.2f} s | "
                  f"{rows[str(value)]['peak_memory_bytes'] / 1e9:.2f} GB |")  # fmt: skip
        results[key] = {"rows": rows}
        if key in LINEAR:
            results[key]["line"] = line([*values], [row["seconds"]["median"] for row in rows.values()])
            print(f"{key}: {results[key]['line']['largest_deviation']:.1%} off a line at most")
    together = measure_seeds([*seeds], rounds, base, overrides)
    figures = {"pictures": pictures, "base": base, "varied": results, "seeds": together}
    write(given.out, "scaling", {**found, **figures})


if __name__ == "__main__":
    main()
