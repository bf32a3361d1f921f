"""Everything that needs a GPU, in order of worth: does it run, is it the same, how fast, how good.

    CIFARLAB_DATA=/path/to/cifar-100 bash benchmarks/gpu_suite.sh

From a checkout, without a network. Python needs torch, torchvision, timm, pydantic, typer, rich, PyYAML,
Pillow, numpy, scipy, tensorboard, safetensors, filelock, platformdirs, jinja2 and matplotlib; for some steps
pytest, pytest-timeout, hypothesis and opencv-python-headless. What is missing comes from --wheels. The steps
are those of gpu_steps.py. Each has a JSON file in --out, and is skipped where that is there; what was cut off
goes on or starts over when the suite is called again. suite.json says how every step ended, and when.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from gpu_steps import Plan, Step

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parent / "src"
# Packages, by the module that tells whether one is there.
NEEDED = {
    "pydantic": "pydantic", "typer": "typer", "rich": "rich", "yaml": "PyYAML", "PIL": "Pillow",
    "numpy": "numpy", "scipy": "scipy", "tensorboard": "tensorboard", "safetensors": "safetensors",
    "filelock": "filelock", "platformdirs": "platformdirs", "jinja2": "jinja2", "matplotlib": "matplotlib",
    "pytest": "pytest", "pytest_timeout": "pytest-timeout", "hypothesis": "hypothesis",
    "cv2": "opencv-python-headless",
}  # fmt: skip
# How long a step that was asked to stop may take to save what it has.
GRACE = 60.0
# Lines of a step's output that are shown.
LAST = 4


class Suite:
    """Runs steps and keeps their results.

    limit: seconds that a step may take. total: seconds after which no further one begins.
    """

    def __init__(self, out: Path, limit: float, total: float):
        self.out, self.limit, self.end = out, limit, time.monotonic() + total
        self.ended: dict[str, list[str]] = {"done": [], "failed": [], "left": []}

    def run(self, step: Step) -> None:
        """Run a step, unless its result is there or no time is left."""
        if (self.out / f"{step.name}.json").exists():
            self.ended["done"].append(step.name)
        elif time.monotonic() >= self.end:
            self.ended["left"].append(step.name)
        else:
            print(f"== {step.name}", flush=True)
            begun = time.monotonic()
            status = self._run(step.name, step.words)
            seconds = round(time.monotonic() - begun, 1)
            end = {0: "done", None: "left"}.get(status, "failed")
            if end == "done":
                self._keep(step, seconds)
            elif (self.out / f"{step.name}.json").exists():
                # What it has to say all the same, in a name that does not count as done.
                (self.out / f"{step.name}.json").replace(self.out / f"{step.name}.failed.json")
            self.ended[end].append(step.name if status is not None else f"{step.name} (cut off)")
            self._note(step, end, seconds, status)
            print(f"   {end} after {seconds:.0f} s\n{self._said(step.name)}", flush=True)

    def _run(self, name: str, words: Sequence[str]) -> int | None:
        """The exit status of `python WORDS`; None if its time was over."""
        with (self.out / f"{name}.out").open("w") as out, (self.out / f"{name}.log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, *words],
                stdout=out,
                stderr=log,
                env=_environment(),
                # It hears of Ctrl-C from here alone, also where whoever called this suite ignores that; and
                # what it started ends with it.
                preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
                start_new_session=True,
            )
            try:
                return process.wait(self.limit)
            except subprocess.TimeoutExpired:
                _end(process)
                return None
            except BaseException:
                _end(process)
                raise

    def _keep(self, step: Step, seconds: float) -> None:
        kept = self.out / f"{step.name}.json"
        if step.result is None:
            printed = (self.out / f"{step.name}.out").read_text()
            with contextlib.suppress(ValueError):
                printed = json.loads(printed)
            _write(kept, {"step": step.name, "seconds": seconds, "printed": printed})
        elif step.result != kept:
            _write(kept, json.loads(step.result.read_text()))

    def _note(self, step: Step, end: str, seconds: float, status: int | None) -> None:
        path = self.out / "suite.json"
        found = json.loads(path.read_text()) if path.exists() else {}
        found[step.name] = {
            "end": end, "status": status, "seconds": seconds, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "command": shlex.join(("python", *step.words)),
        }  # fmt: skip
        _write(path, found)

    def _said(self, name: str) -> str:
        """The last lines that a step printed."""
        texts = [(self.out / f"{name}.{kind}").read_text(errors="replace") for kind in ("out", "log")]
        last = [line for text in texts for line in text.rstrip().splitlines()[-LAST:]]
        return "\n".join(f"   {line}" for line in last)


def _environment() -> dict[str, str]:
    """The checkout's package before any that is installed."""
    paths = [str(SOURCE), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def _end(process: subprocess.Popen) -> None:
    """Ask a step to stop, as Ctrl-C does; after GRACE seconds it has no choice."""
    with contextlib.suppress(ProcessLookupError):
        # Its first process alone: it tells those that it started.
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _write(path: Path, found: dict[str, Any]) -> None:
    """Whole or not at all: a file that is there says that a step is done."""
    new = path.with_suffix(".new")
    new.write_text(json.dumps(found, indent=2) + "\n")
    new.replace(path)


def fill_gaps(wheels: Path) -> None:
    """Install what is missing of NEEDED, and what that needs; what is there stays as it is."""
    for module, package in NEEDED.items():
        if importlib.util.find_spec(module) is None:
            words = ["pip", "install", "--quiet", "--no-index", "--find-links", str(wheels), package]
            if subprocess.run([sys.executable, "-m", *words]).returncode:
                print(f"{package} is missing and was not installed: steps that need it will fail", flush=True)


def has_gpu() -> bool:
    words = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    return subprocess.run([sys.executable, "-c", words]).returncode == 0


def interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0], prog="gpu_suite.sh")
    options.add_argument("--out", type=Path, default=HERE / "results" / "gpu", help="where results go")
    options.add_argument("--limit", type=float, default=500, help="seconds that a step may take")
    options.add_argument("--total", type=float, default=float("inf"), help="seconds after which none begins")
    options.add_argument("--only", type=re.compile, default=re.compile(""), help="a pattern of steps' names")
    options.add_argument("--list", action="store_true", help="print the steps and stop")
    options.add_argument("--dry", action="store_true", help="a rehearsal, seconds a step, in OUT/rehearsal")
    options.add_argument("--wheels", type=Path, help="a folder of wheels, for what is missing")
    options.add_argument("--timm-train", type=Path, help="timm's train.py, for compare_timm")
    options.add_argument("--start", type=Path, help="a run whose weights stand in for ImageNet's")
    given = options.parse_args()
    out = (given.out / "rehearsal" if given.dry else given.out).resolve()
    if given.wheels and not given.list:
        fill_gaps(given.wheels)
    engine = "graph"
    if not given.list and not has_gpu():
        if not given.dry:
            options.exit(2, "gpu_suite.sh: error: torch finds no GPU; --dry rehearses without one\n")
        engine = "eager"
    plan = Plan(out, engine, given.dry, given.timm_train, given.start)
    chosen = [step for step in plan.steps() if given.only.search(step.name)]
    if given.list:
        print("\n".join(step.name for step in chosen))
        return
    out.mkdir(parents=True, exist_ok=True)
    suite = Suite(out, given.limit, given.total)
    for asked in (signal.SIGINT, signal.SIGTERM):
        signal.signal(asked, interrupt)
    try:
        for step in chosen:
            suite.run(step)
    except KeyboardInterrupt:
        print("stopped; the same command goes on")
        sys.exit(130)
    told = "; ".join(f"{end}: {' '.join(names) or 'nothing'}" for end, names in suite.ended.items())
    print(f"{told}. Results: {out}")
    sys.exit(1 if suite.ended["failed"] else 0)


if __name__ == "__main__":
    main()
