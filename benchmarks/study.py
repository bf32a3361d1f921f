"""What studies share: arms trained at several seeds, paired differences with intervals, curves, a page."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import stdev
from typing import Any

import matplotlib as mpl
from common import read_recipe
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from cifarlab.config.recipes import resolve
from cifarlab.core.files import read_json, write_json
from cifarlab.evaluation.score import evaluate
from cifarlab.experiments.statistics import paired_difference
from cifarlab.report.plot import COLORS, STYLE
from cifarlab.runs.folder import Run
from cifarlab.runs.log import read_log
from cifarlab.training.loop import train_run
from cifarlab.training.progress import TrainingProgress

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Arm:
    """One way to train: its name on the page, its recipe and what is laid over it.

    SEED in an override stands for the run's seed.
    """

    name: str
    recipe: str
    overrides: tuple[str, ...] = ()

    @property
    def folder(self) -> str:
        return self.name.replace(" ", "_")


def parser(description: str | None, runs: str, epochs: int) -> argparse.ArgumentParser:
    """The options that every study has."""
    options = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--root", help="where CIFAR-100 lies")
    options.add_argument("--runs", type=Path, default=Path(runs))
    options.add_argument("--epochs", type=int, default=epochs)
    options.add_argument("--seeds", type=int, default=3)
    options.add_argument("--override", action="append", default=[], help="key=value for every run")
    options.add_argument("--out", type=Path, default=ROOT, help="where docs/ and benchmarks/ lie")
    return options


def train_all(arms: Sequence[Arm], options: argparse.Namespace) -> dict[str, list[Run]]:
    """Every arm at every seed, seed by seed; what is trained already is only read."""
    found: dict[str, list[Run]] = {arm.name: [] for arm in arms}
    for seed in range(options.seeds):
        for arm in arms:
            root = [f"data.root={options.root}"] if options.root else []
            own = [text.replace("SEED", str(seed)) for text in arm.overrides]
            overrides = [f"train.epochs={options.epochs}", f"train.seed={seed}", *root, *own]
            run = Run(options.runs / arm.folder / str(seed), recipe=arm.recipe, name=arm.folder)
            train_run(
                resolve(read_recipe(arm.recipe), [*overrides, *options.override]),
                run,
                progress=TrainingProgress(),
            )
            found[arm.name].append(run)
    return found


def figures_of(run: Run) -> dict[str, Any]:
    """A finished run's figures and what they stand on; its test pictures are read once, if they were not."""
    summary, env = read_json(run.summary_path), read_json(run.env_path)
    test = summary["test_top1"]
    if test is None:
        test = evaluate(run.folder, split="test").top1
    kept = ("recipe", "seed", "chosen_on", "chosen_epoch", "train_top1", "val_top1", "seconds")
    # Files are recorded by content, because results must not contain paths of this machine.
    health = dict(summary.get("distillation") or {})
    teachers = [teacher["sha256"] for teacher in health.pop("teachers", ())]
    return {
        **{key: summary[key] for key in kept},
        "test_top1": test,
        "val_by_epoch": [row["val/top1"] for row in read_log(run.metrics_path)],
        **({"distillation": {"teachers_sha256": teachers, **health}} if health else {}),
        "weights_sha256": [weights["sha256"] for weights in env["weights"]],
        **{key: env[key] for key in ("precision", "hardware", "git", "versions", "time")},
    }


def paired(ours: Sequence[float], others: Sequence[float]) -> dict[str, float]:
    """Mean of the differences seed by seed, and its 95 % interval."""
    found = paired_difference(ours, others)
    return {"mean": float(found.mean), "low": float(found.low), "high": float(found.high)}


def points(value: Mapping[str, float]) -> str:
    """A paired difference in percentage points."""
    return f"{100 * value['mean']:+.2f} [{100 * value['low']:+.2f}, {100 * value['high']:+.2f}]"


def mean_and_spread(values: Sequence[float]) -> str:
    """`41.23 ± 0.45`: mean and standard deviation over seeds, in percent."""
    spread = stdev(values) if len(values) > 1 else 0.0
    return f"{100 * sum(values) / len(values):.2f} ± {100 * spread:.2f}"


def plot(results: Mapping[str, list[dict[str, Any]]], path: Path, title: str) -> None:
    """Validation accuracy by epoch: the mean over seeds as a line, all seeds as a band."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8, 4.6), layout="constrained", dpi=140)
        axis = figure.subplots()
        for color, (name, runs) in zip(COLORS, results.items(), strict=False):
            by_epoch = [
                [100 * v for v in epoch] for epoch in zip(*(r["val_by_epoch"] for r in runs), strict=True)
            ]
            epochs = range(1, len(by_epoch) + 1)
            axis.fill_between(
                epochs, list(map(min, by_epoch)), list(map(max, by_epoch)), color=color, alpha=0.2
            )
            means = [sum(epoch) / len(epoch) for epoch in by_epoch]
            axis.plot(epochs, means, color=color, marker="o", markersize=3, label=name)
        axis.set(title=title, xlabel="epoch", ylabel="top-1 % on validation", ylim=(0, None))
        axis.grid(alpha=0.25, linewidth=0.6)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.legend(frameon=False, loc="lower right")
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)


def stands_on(run: Mapping[str, Any]) -> str:
    """One line: the machine, the arithmetic, the versions and the date of a run."""
    hardware, versions = run["hardware"], run["versions"]
    return (
        f"Measured on {hardware['processor']}, {hardware['cores']} cores, {run['precision']}; "
        f"torch {versions['torch']}, timm {versions['timm']}; {run['time'][:10]}."
    )


def write(out: Path, name: str, results: Mapping[str, Any], lines: Sequence[str]) -> None:
    """The study's JSON and its page."""
    path = out / "benchmarks" / "results" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, results)
    page = out / "docs" / "results" / f"{name}.md"
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("\n".join(lines) + "\n")
