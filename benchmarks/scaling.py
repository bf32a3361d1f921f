"""How an epoch's time and a run's memory grow: with pictures, epochs, the batch, pixels and classes.

    python benchmarks/scaling.py --out benchmarks/results/scaling.json

Whole runs of `cifarlab.train` on `resnet18_baseline`, one after the other, each in a process of its own, in
rounds. A line is laid through the seconds against pictures and epochs: cost linear in both.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import numpy as np
from common import (
    data_overrides,
    describe_machine,
    environment,
    load_average,
    parser,
    positive,
    spread,
    warn_if_busy,
    write,
)

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
TINY = ({"pictures": 40, "epochs": 1, "batch": 20, "pixels": 16, "classes": 100}, {"epochs": (1, 2, 3)})

# A process of its own: peak memory is a process's.
SCRIPT = """
import json, sys, tempfile, time
from pathlib import Path
from rich.console import Console
from cifarlab.device import peak_memory, pick_device
from cifarlab.progress import TrainingProgress
from cifarlab.recipes import read, resolve
from cifarlab.run import Run
from cifarlab.train import train

class Clock(TrainingProgress):
    def __init__(self):
        super().__init__(Console(quiet=True), quiet=True)
    def start(self, *arguments):
        super().start(*arguments)
        self.begun = time.perf_counter()
    def epoch(self, row, best):
        self.seconds = time.perf_counter() - self.begun

clock = Clock()
with tempfile.TemporaryDirectory() as folder:
    train(resolve(read(sys.argv[1]), sys.argv[2:]), Run(Path(folder) / "scaling" / "0"), clock)
print(json.dumps({"seconds": clock.seconds, "peak_memory_bytes": peak_memory(pick_device("auto"))}))
"""


def run(setting: dict[str, int], overrides: list[str]) -> dict[str, float]:
    """Seconds of a run's epochs, evaluations and checkpoints included, and the process's peak memory."""
    words = [
        *overrides,
        f"data.limit={setting['pictures']}",
        f"data.batch_size={setting['batch']}",
        f"data.image_size={setting['pixels']}",
        f"data.classes={setting['classes']}",
        f"train.epochs={setting['epochs']}",
    ]
    finished = subprocess.run(
        [sys.executable, "-c", SCRIPT, RECIPE, *words], capture_output=True, text=True, check=False
    )
    if finished.returncode:
        raise SystemExit(finished.stderr)
    return json.loads(finished.stdout.splitlines()[-1])


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
    given = options.parse_args()
    base, varied = TINY if given.tiny else (BASE, VARIED)
    rounds = 1 if given.tiny else given.rounds
    load = load_average()
    pictures, overrides = data_overrides(given)
    found = environment(load, device="auto")
    print(f"{describe_machine(found)}; {pictures}; {RECIPE}, {base}")
    warn_if_busy(load)
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
    write(given.out, "scaling", {**found, "pictures": pictures, "base": base, "varied": results})


if __name__ == "__main__":
    main()
