"""Memory and start-up of CIFAR-100 training on the CPU, measured on whole processes from outside.

python benchmarks/startup.py --out benchmarks/results/startup.json
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import begin, parser, positive, spread, write

# The most that the project allows.
LIMITS = {"help_seconds": 0.5, "first_step_seconds": 10.0, "peak_memory_bytes": 2.5e9}
REACHED = 77
# `cifarlab` itself, but a process that ends with its first training step.
UNTIL_FIRST_STEP = f"""
import os
from cifarlab import cli
from cifarlab.engine import step as engine

step = engine.Engine.step

def first_step(*arguments):
    step(*arguments)
    os._exit({REACHED})

engine.Engine.step = first_step
cli.main()
"""


def command() -> list[str]:
    """The installed `cifarlab`, as a user calls it."""
    script = Path(sys.executable).with_name("cifarlab")
    return [str(script)] if script.is_file() else [sys.executable, "-m", "cifarlab"]


def run(arguments: list[str], expected: int = 0) -> tuple[float, int]:
    """Run a process to its end: (seconds, peak resident bytes). Raises SystemExit if it fails."""
    with tempfile.TemporaryFile() as said:
        begun = time.perf_counter()
        process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=said)
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != expected:
            said.seek(0)
            raise SystemExit(f"{arguments} ended with {process.returncode}:\n{said.read().decode()[-2000:]}")
    return seconds, used.ru_maxrss if sys.platform == "darwin" else used.ru_maxrss * 1024


def measure_help(repeats: int, left_out: int) -> list[float]:
    """Seconds of `cifarlab --help`; the first calls may write bytecode, and are left out."""
    return [run([*command(), "--help"])[0] for _ in range(left_out + repeats)][left_out:]


def measure_first_step(
    recipe: str, overrides: list[str], repeats: int, left_out: int, folder: Path
) -> list[float]:
    """Seconds from the start of `cifarlab train` to the end of its first step; the data are cached."""
    arguments = [sys.executable, "-c", UNTIL_FIRST_STEP, "train", recipe, *overrides, "--runs", str(folder)]
    return [run([*arguments, "--fresh"], REACHED)[0] for _ in range(left_out + repeats)][left_out:]


def measure_memory(recipe: str, overrides: list[str], folder: Path) -> int:
    """Peak resident bytes of a whole `cifarlab train`: reading, one epoch, evaluation, checkpoints.

    The system counts a child's peak from its parent's size when it started, which is this script's with torch
    imported: far below a training process.
    """
    arguments = [*command(), "train", recipe, *overrides, "train.epochs=1", "--runs", str(folder), "--fresh"]
    return run(arguments)[1]


def main() -> None:
    options = parser((__doc__ or "").partition("\n")[0])
    options.add_argument(
        "--repeats", type=positive, default=5, help="of the two times, after one not counted"
    )
    options.add_argument("--recipes", nargs="+", default=["resnet18_baseline", "resnet18_augment"])
    given = options.parse_args()
    if not hasattr(os, "wait4"):
        raise SystemExit("this system does not tell a child's peak memory; run it on Linux or macOS")
    left_out = 1
    if given.tiny:
        given.repeats, left_out, given.recipes = 1, 0, given.recipes[:1]
    pictures, overrides, found = begin(given, f"median and worst of {given.repeats}")
    overrides = [*overrides, "train.device=cpu", *(["data.limit=20"] if given.tiny else [])]
    print("\n| figure | median | worst | at most |\n|---|---|---|---|")
    seconds = spread(measure_help(given.repeats, left_out), digits=3, best=min)
    show("`cifarlab --help`", seconds, LIMITS["help_seconds"])
    figures: dict[str, Any] = {"help_seconds": seconds}
    for recipe in given.recipes:
        with tempfile.TemporaryDirectory() as folder:
            times = measure_first_step(recipe, overrides, given.repeats, left_out, Path(folder))
            seconds = spread(times, digits=3, best=min)
            show(f"start to first step, {recipe}", seconds, LIMITS["first_step_seconds"])
            peak = measure_memory(recipe, overrides, Path(folder))
        limit = LIMITS["peak_memory_bytes"]
        print(f"| peak memory, {recipe} | {peak / 1e9:.2f} GB | | {limit / 1e9} GB |", flush=True)
        figures[recipe] = {"first_step_seconds": seconds, "peak_memory_bytes": peak}
    write(given.out, "startup", {**found, "pictures": pictures, "figures": figures, "limits": LIMITS})


def show(label: str, seconds: dict[str, Any], limit: float) -> None:
    print(f"| {label} | {seconds['median']:.2f} s | {max(seconds['rounds']):.2f} s | {limit} s |", flush=True)


if __name__ == "__main__":
    main()
