"""Everything that needs a GPU, in order of worth: does it run, is it the same, how fast, how good.

    CIFARLAB_DATA=/path/to/cifar-100 bash benchmarks/gpu_suite.sh

From a checkout, without a network. Python needs torch, torchvision, timm, pydantic, typer, rich, PyYAML,
Pillow, numpy, scipy, tensorboard, safetensors, filelock, platformdirs, jinja2 and matplotlib; for some steps
pytest, pytest-timeout, hypothesis, opencv-python-headless and pytorch-lightning. What is missing comes from
--wheels. The steps are those of gpu_steps.py. Each has a JSON file in --out, and is skipped where that is
there; an interrupted one is resumed or restarted when the suite runs again. suite.json lists every attempt,
results.tar.gz holds all but weights.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from gpu_steps import Plan, Step
from packaging.requirements import Requirement

HERE = Path(__file__).resolve().parent
SOURCE = HERE.parent / "src"
# timm: older ones' optimizers read a rate that is a tensor on the host, which no graph can hold.
NEEDED = (
    "timm>=1.0.31", "pydantic>=2.10", "typer>=0.15", "rich", "PyYAML", "Pillow", "numpy>=2.0", "scipy",
    "tensorboard", "safetensors", "filelock", "platformdirs", "jinja2", "matplotlib", "pytest",
    "pytest-timeout", "hypothesis", "opencv-python-headless", "pytorch-lightning>=2.5,!=2.6.2,!=2.6.3",
)  # fmt: skip
# What no step can do without: whether torch sees a GPU, and whether the pictures are there.
PROBE = """
import sys, torch
from common import has_cifar100
print(torch.cuda.is_available(), has_cifar100(None))
"""
# How long a step that was asked to stop may take to save what it has: with the limit, under nine minutes.
GRACE = 60.0
# Lines of a step's output that are shown.
LAST = 4


class Suite:
    """Runs steps and keeps their results.

    limit: seconds that a step may take. total: seconds after which no further one is started.
    """

    def __init__(self, out: Path, limit: float, total: float):
        self.out, self.limit, self.end = out, limit, time.monotonic() + total
        self.ended: dict[str, list[str]] = {"done": [], "failed": [], "left": []}

    def run(self, step: Step) -> None:
        """Run a step, unless its result is there or no time is left."""
        limit = min(self.limit, self.end - time.monotonic())
        if (self.out / f"{step.name}.json").exists():
            self.ended["done"].append(step.name)
        elif limit <= 0:
            self.ended["left"].append(step.name)
        else:
            print(f"== {step.name}", flush=True)
            begun = time.monotonic()
            status = self._run(step.name, step.words, limit)
            seconds = round(time.monotonic() - begun, 1)
            end = {0: "done", None: "left"}.get(status, "failed")
            attempts = self._note(step, end, seconds, status)
            if end == "done":
                self._keep(step, attempts)
            self.ended[end].append(step.name if status is not None else f"{step.name} (cut off)")
            print(f"   {end} after {seconds:.0f} s\n{self._said(step.name)}", flush=True)

    def _run(self, name: str, words: Sequence[str], limit: float) -> int | None:
        """The exit status of `python WORDS`; None if its time was over."""
        with (self.out / f"{name}.out").open("w") as out, (self.out / f"{name}.log").open("a") as log:
            process = subprocess.Popen(
                [sys.executable, *words],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=log,
                env=_environment(),
                # It hears of Ctrl-C from here alone, also where whoever called this suite ignores that.
                preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
                process_group=0,
            )
            try:
                return process.wait(limit)
            except subprocess.TimeoutExpired:
                return None
            finally:
                _end(process)

    def _keep(self, step: Step, attempts: list[dict[str, Any]]) -> None:
        """Write what counts as done. seconds: of all attempts, if a step was resumed."""
        kept = self.out / f"{step.name}.json"
        told = {"step": step.name, "seconds": round(sum(each["seconds"] for each in attempts), 1)}
        if step.result is None:
            printed = (self.out / f"{step.name}.out").read_text()
            with contextlib.suppress(ValueError):
                printed = json.loads(printed)
            _write(kept, {**told, "attempts": len(attempts), "printed": printed})
        elif step.result.is_dir():
            summary, env = (json.loads((step.result / f"{it}.json").read_text()) for it in ("summary", "env"))
            rows = [json.loads(row) for row in (step.result / "metrics.jsonl").read_text().splitlines()]
            _write(kept, {**told, "summary": summary, "env": env, "metrics": rows})
        else:
            step.result.replace(kept)

    def _note(self, step: Step, end: str, seconds: float, status: int | None) -> list[dict[str, Any]]:
        """All attempts at the step, this one added."""
        path = self.out / "suite.json"
        found = json.loads(path.read_text()) if path.exists() else {}
        attempts = found.setdefault(step.name, [])
        attempts.append({
            "end": end, "status": status, "seconds": seconds, "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "command": shlex.join(("python", *step.words)),
        })  # fmt: skip
        _write(path, found)
        return attempts

    def pack(self) -> None:
        """All but weights, in one file."""
        kept = {".json", ".jsonl", ".out", ".log"}
        paths = [path for path in sorted(self.out.rglob("*")) if path.suffix in kept]
        new = self.out / "results.new"
        with tarfile.open(new, "w:gz") as archive:
            for path in paths:
                archive.add(path, path.relative_to(self.out))
        new.replace(self.out / "results.tar.gz")

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
    """Ask a step that still runs to stop, as Ctrl-C does; after GRACE seconds it has no choice."""
    try:
        if process.poll() is None:
            # Its first process alone: it tells those that it started.
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE)
    finally:
        # Also what it left behind, and also when Ctrl-C was pressed a second time.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _write(path: Path, found: dict[str, Any]) -> None:
    """Whole or not at all: a file that is there says that a step is done."""
    new = path.with_suffix(".new")
    new.write_text(json.dumps(found, indent=2) + "\n")
    new.replace(path)


def missing() -> list[str]:
    """Those of NEEDED that are not installed, or too old."""
    return [need for need in NEEDED if not _is_met(Requirement(need))]


def _is_met(need: Requirement) -> bool:
    try:
        return metadata.version(need.name) in need.specifier
    except metadata.PackageNotFoundError:
        return False


def fill_gaps(wheels: Path) -> None:
    """Install what is missing, and what that needs; what is there stays as it is."""
    for need in missing():
        words = ["pip", "install", "--quiet", "--no-index", "--find-links", str(wheels), need]
        subprocess.run([sys.executable, "-m", *words])


def problems(dry: bool) -> tuple[list[str], bool]:
    """(what keeps the suite from its work, whether there is a GPU)."""
    if lacks := missing():
        return [f"missing or too old: {', '.join(lacks)}; --wheels names a folder to take them from"], False
    probed = subprocess.run(
        [sys.executable, "-c", PROBE], cwd=HERE, env=_environment(), capture_output=True, text=True
    )
    if probed.returncode:
        return [f"the package cannot be used: {probed.stderr.strip().splitlines()[-1]}"], False
    gpu, pictures = (word == "True" for word in probed.stdout.split())
    found = []
    if not gpu and not dry:
        found.append("torch finds no GPU; --dry rehearses without one")
    if not pictures and not dry:
        found.append("CIFAR-100 is not found; CIFARLAB_DATA names the folder that holds cifar-100-python")
    return found, gpu


def interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0], prog="gpu_suite.sh")
    options.add_argument("--out", type=Path, default=HERE / "results" / "gpu", help="where results go")
    options.add_argument("--limit", type=float, default=470, help="seconds that a step may take")
    options.add_argument(
        "--total", type=float, default=float("inf"), help="seconds after which no step is started"
    )
    options.add_argument("--only", type=re.compile, default=re.compile(""), help="a pattern of steps' names")
    options.add_argument("--list", action="store_true", help="print the steps and stop")
    options.add_argument("--dry", action="store_true", help="a rehearsal, seconds a step, in OUT/rehearsal")
    options.add_argument("--wheels", type=Path, help="a folder of wheels, for what is missing")
    options.add_argument("--timm-train", type=Path, help="timm's train.py, for compare_timm")
    options.add_argument("--start", type=Path, help="a run whose weights replace ImageNet's")
    given = options.parse_args()
    out = (given.out / "rehearsal" if given.dry else given.out).resolve()
    engine = "graph"
    if not given.list:
        if given.wheels:
            fill_gaps(given.wheels)
        found, gpu = problems(given.dry)
        if found:
            options.exit(2, "".join(f"gpu_suite.sh: error: {problem}\n" for problem in found))
        engine = "graph" if gpu else "eager"
    plan = Plan(out, engine, given.dry, given.timm_train, given.start)
    chosen = [step for step in plan.steps() if given.only.search(step.name)]
    if given.list:
        print("\n".join(step.name for step in chosen))
        return
    out.mkdir(parents=True, exist_ok=True)
    suite = Suite(out, given.limit, given.total)
    for asked in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(asked, interrupt)
    try:
        for step in chosen:
            suite.run(step)
    except KeyboardInterrupt:
        print("stopped; the same command resumes")
        sys.exit(130)
    finally:
        suite.pack()
    told = "; ".join(f"{end}: {' '.join(names) or 'nothing'}" for end, names in suite.ended.items())
    print(f"{told}. Results: {out}")
    sys.exit(1 if suite.ended["failed"] else 0)


if __name__ == "__main__":
    main()
