"""A run's analysis as one picture: calibration, classes, confusion, corruptions, pictures worth a look."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cifarlab.data.splits import Split
from cifarlab.evaluation.analysis.tiles import picture_at
from cifarlab.report.contact_sheet import COLUMNS, Tile, show_tiles
from cifarlab.report.plot import COLORS, STYLE, save_figure

TILES = 2 * COLUMNS


def write_analysis_page(report: dict[str, Any], pictures: Split, out: Path) -> Path:
    """Draw what `analyze` found of the `pictures` it scored, and return the path."""
    sections = [
        ("Hardest: least probability of the label", report["hardest"]),
        ("Most confident errors", report["confident_errors"]),
    ]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(14, 16), layout="constrained", dpi=110)
        figure.suptitle(_heading(report), fontsize=12)
        parts: Any = figure.subfigures(3, 1, height_ratios=(8, 4, 4))
        upper, *lower = parts
        panels = upper.subplots(2, 2)
        _reliability(panels[0, 0], report)
        _classes(panels[0, 1], report)
        _confusion(panels[1, 0], report)
        _corruptions(panels[1, 1], report)
        for part, (title, rows) in zip(lower, sections, strict=True):
            show_tiles(part, title, [_tile(pictures, row) for row in rows[:TILES]])
        save_figure(figure, out)
    return out


def _heading(report: dict[str, Any]) -> str:
    remark = f" ({report['remark']})" if report["remark"] else ""
    lines = [
        f"{report['run']} on {report['split']}: top-1 {report['top1']:.1%}{remark}, "
        f"top-5 {report['top5']:.1%}, on train {report['train_top1']:.1%}"
    ]
    if report["anchor"]:
        lines.append(report["anchor"]["text"])
    return "\n".join(textwrap.fill(line, 150) for line in lines)


def _reliability(axis: Axes, report: dict[str, Any]) -> None:
    axis.plot((0, 1), (0, 1), color="0.6", linewidth=1)
    after = report["after_temperature"]
    for color, name, found, bins in (
        (COLORS[0], "as it is", report, report["reliability"]),
        (COLORS[1], "after temperature scaling", after, after["reliability"]),
    ):
        label = f"{name}: error {found['ece']:.1%}, NLL {found['nll']:.3f}"
        points = [(b["confidence"], b["accuracy"]) for b in bins]
        axis.plot(*zip(*points, strict=True), color=color, marker="o", markersize=4, label=label)
    axis.set(title="Calibration", xlabel="confidence", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    axis.legend(fontsize=8, frameon=False)


def _classes(axis: Axes, report: dict[str, Any]) -> None:
    found = [(name, value) for name, value in report["by_class"].items() if value is not None]
    ends = found if len(found) <= 20 else [*found[:10], *found[-10:]]
    names = [name.replace("_", " ") for name, _ in ends]
    colors = [COLORS[1]] * (len(ends) // 2) + [COLORS[2]] * (len(ends) - len(ends) // 2)
    axis.barh(range(len(ends)), [100 * value for _, value in ends], color=colors)
    axis.set(title="Accuracy by class: the lowest and the highest", xlabel="top-1 %", xlim=(0, 100))
    axis.set_yticks(range(len(ends)), names, fontsize=8)
    axis.invert_yaxis()


def _confusion(axis: Axes, report: dict[str, Any]) -> None:
    if "superclass_confusion" in report:
        names, counts = report["superclass_confusion"]["names"], report["superclass_confusion"]["counts"]
        what = "superclass"
    else:
        names, counts, what = sorted(report["by_class"]), report["confusion"], "class"
    shares = np.array(counts) / np.maximum(np.sum(counts, axis=1, keepdims=True), 1)
    axis.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axis.set(title=f"What each {what} (row) is taken for", xlabel="guess", ylabel="label")
    if len(names) <= 30 and what == "superclass":
        words = [name.replace("_", " ") for name in names]
        axis.set_xticks(range(len(names)), words, rotation=90, fontsize=6)
        axis.set_yticks(range(len(names)), words, fontsize=6)


def _corruptions(axis: Axes, report: dict[str, Any]) -> None:
    if "corruptions" not in report:
        _errors(axis, report)
        return
    for color, (kind, values) in zip(COLORS, list(report["corruptions"].items())[:-1], strict=False):
        points = [100 * value for value in (report["top1"], *values)]
        axis.plot(range(6), points, color=color, marker="o", markersize=3, label=kind.replace("_", " "))
    axis.set(title=f"On corrupted pictures: mean {report['corruptions']['mean']:.1%}", xlabel="severity",
             ylabel="top-1 %", ylim=(0, None))  # fmt: skip
    axis.legend(fontsize=8, frameon=False)


def _errors(axis: Axes, report: dict[str, Any]) -> None:
    rows = report["most_confused"][:15]
    names = [f"{row['label']} for {row['guess']}".replace("_", " ") for row in rows]
    axis.barh(range(len(rows)), [row["count"] for row in rows], color=COLORS[0])
    axis.set(title="The commonest errors: what is taken for what", xlabel="pictures")
    axis.set_yticks(range(len(rows)), names, fontsize=8)
    axis.invert_yaxis()


def _tile(pictures: Split, row: dict[str, Any]) -> Tile:
    guess = f"{row['guess']} {row['probability']:.0%}"
    said = guess if row["guess"] == row["label"] else f"{guess}\n({row['label']})"
    return picture_at(pictures, row["position"]), said
