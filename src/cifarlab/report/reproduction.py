"""A reproduction of the tutorial's table as a Markdown page with a chart.

Each experiment of the published tutorial (`experiments.tutorial`) is trained as its code does it ("as run"),
and without that code's defects ("corrected").
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from cifarlab.core.files import write_atomically
from cifarlab.experiments.records import (
    JudgedDifference,
    Lesson,
    MeasuredOn,
    ReproducedSide,
    Reproduction,
    SideName,
)
from cifarlab.experiments.wording import interval
from cifarlab.report.plot import COLORS, STYLE

SIDES: dict[SideName, str] = {"as_run": "as run", "corrected": "corrected"}
NOT_MEASURED = "not measured yet"


def write_page(found: Reproduction, path: Path) -> None:
    """Write a reproduction as a Markdown page with a chart.

    The chart is a PNG beside the page. It shows what each experiment gains over the one that it builds on.
    There is no chart if no such gain was measured.
    """
    measured = [lesson for lesson in found.lessons if any(lesson.sides.values())]
    path.parent.mkdir(parents=True, exist_ok=True)
    if measured:
        write_chart(measured, path.with_suffix(".png"))
    lines = [*_table(found), *_lessons(found, path.with_suffix(".png").name if measured else None)]
    text = "\n".join([*_opening(found), *lines, *_closing(found)]) + "\n"
    write_atomically(path, lambda file: file.write(text.encode()))


def _opening(found: Reproduction) -> list[str]:
    amount = f"{found.pictures:,} training pictures" if found.pictures else "all training pictures"
    overrides = f" with {', '.join(f'`{word}`' for word in found.overrides)}" if found.overrides else ""
    lines = [
        "# The tutorial's table again",
        "",
        f"`cifarlab reproduce --budget {found.budget}`{overrides}: {_epochs(found.epochs)} of "
        f"{amount}. *As run* is what the published code does, defects included (`as_run/` recipes): the same "
        "batches in the same order every epoch, augmentation frozen, ImageNet weights without their "
        "normalisation, and the best epoch of the test set. *Corrected* is the same experiment without them, "
        "its epoch chosen on validation.",
        "",
    ]
    if start := found.start:
        lines += [
            f"Where an experiment starts from ImageNet weights, those of `{start.recipe}` "
            f"({_epochs(start.epochs)} at {start.image_size} px) replace them: its published figure is not "
            "comparable.",
            "",
        ]
    return lines


def _epochs(num: int) -> str:
    return f"{num} epoch{'s' * (num != 1)}"


def _table(found: Reproduction) -> list[str]:
    lines = [
        "| experiment | published | as run, % | 95 % interval | corrected, % | 95 % interval "
        "| correction, points | seeds | minutes |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in found.rows:
        known = [side for side in row.sides.values() if side is not None]
        cells = [cell for side in row.sides.values() for cell in _side(side)]
        seeds = str(min(side.n for side in known)) if known else "-"
        minutes = f"{sum(side.minutes for side in known) / len(known):.1f}" if known else "-"
        published = "-" if row.published is None else f"{100 * row.published:.2f}"
        apart = _points(row.difference) if row.difference else "-"
        name = f"`{row.name}`"
        lines.append(f"| {' | '.join([name, published, *cells, apart, seeds, minutes])} |")
    notes = [
        f"- `{row.name}`{'' if len(row.missing) > 1 else f', {SIDES[side]}'}: {reason}"
        for row in found.rows
        for side, reason in list(row.missing.items())[:1]
    ]
    return [
        *lines,
        "",
        "Test top-1, mean ± standard deviation over seeds, Student's intervals. The correction is the paired "
        "difference of corrected minus as run; * marks significance at 5 % after Holm's correction for all "
        "rows. Minutes are of one run.",
        *(["", "Not measured:", "", *notes] if notes else []),
    ]


def _side(side: ReproducedSide | None) -> tuple[str, str]:
    if side is None:
        return NOT_MEASURED, "-"
    spread = "" if side.sd is None else f" ± {100 * side.sd:.2f}"
    return f"{100 * side.mean:.2f}{spread}", interval(side, ".2f")


def _points(apart: JudgedDifference) -> str:
    """Format a difference in points, e.g. `+1.23 [+0.40, +2.06] *`.

    The star marks a significant difference.
    """
    if apart.low is None or apart.high is None:
        return f"{100 * apart.mean:+.2f}"
    low, high = 100 * apart.low, 100 * apart.high
    return f"{100 * apart.mean:+.2f} [{low:+.2f}, {high:+.2f}]{' *' if apart.shown else ''}"


def _lessons(found: Reproduction, chart: str | None) -> list[str]:
    if not found.lessons:
        return []
    lines = ["| experiment | minus | published | as run | corrected |", "|---|---|---|---|---|"]
    for lesson in found.lessons:
        published = "-" if lesson.published is None else f"{100 * lesson.published:+.2f}"
        sides = [_points(apart) if apart else NOT_MEASURED for apart in lesson.sides.values()]
        lines.append(f"| `{lesson.name}` | `{lesson.builds_on}` | {published} | {' | '.join(sides)} |")
    picture = [f"![The lessons: each as published, as run and corrected, with intervals]({chart})", ""]
    return [
        "",
        "## The lessons",
        "",
        "Each experiment minus the one that it builds on, in points of test top-1, with 95 % intervals; * "
        "marks significance at 5 % after Holm's correction for all lessons of its column.",
        "",
        *(picture if chart else []),
        *lines,
    ]


def _closing(found: Reproduction) -> list[str]:
    optimism = [row.as_run.optimism for row in found.rows if row.as_run]
    known = [value for value in optimism if value is not None]
    flatters = []
    if known:
        flatters = [
            f"The choice of the best epoch on test adds {100 * sum(known) / len(known):+.2f} points to the "
            "figures as run, on average, as estimated from each run's own curve.",
            "",
        ]
    return ["", *flatters, f"Measured on {_machine(found.env)}."]


def _machine(env: MeasuredOn) -> str:
    """Describe the machine and its software, as far as they were recorded."""
    hardware, cores = env.hardware, env.hardware.get("cores")
    machine = hardware.get("gpu") or hardware.get("processor") or "an unknown machine"
    where = [machine, f"{cores} cores" if cores else "", env.precision]
    versions = [f"{name} {env.versions[name]}" for name in ("torch", "timm") if name in env.versions]
    parts = [", ".join(str(each) for each in where if each), ", ".join(versions), env.time[:10]]
    return "; ".join(part for part in parts if part)


def _or(value: float | None, other: float) -> float:
    return other if value is None else value


def write_chart(lessons: Sequence[Lesson], path: Path) -> None:
    """Plot the gains of lessons: published, as run and corrected.

    A lesson is the gain of an experiment over the one that it builds on. Measured gains have 95 % intervals.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.5, 1.4 + 0.75 * len(lessons)), layout="constrained", dpi=140)
        axis = figure.subplots()
        axis.axvline(0, color="0.6", linewidth=1)
        for place, (side, word) in zip((-0.14, 0.14), SIDES.items(), strict=True):
            sides = [lesson.sides[side] for lesson in lessons]
            shown = [(row, apart) for row, apart in enumerate(sides) if apart is not None]
            means = [100 * apart.mean for _, apart in shown]
            ends = [(_or(apart.low, apart.mean), _or(apart.high, apart.mean)) for _, apart in shown]
            reach = [
                [mean - 100 * low for mean, (low, _) in zip(means, ends, strict=True)],
                [100 * high - mean for mean, (_, high) in zip(means, ends, strict=True)],
            ]
            color = COLORS[1] if side == "as_run" else COLORS[0]
            rows = [row + place for row, _ in shown]
            axis.errorbar(means, rows, xerr=reach, fmt="o", color=color, capsize=3, label=word)
        told = [
            (row, 100 * lesson.published)
            for row, lesson in enumerate(lessons)
            if lesson.published is not None
        ]
        axis.plot([value for _, value in told], [row for row, _ in told], "D", color="black",
                  markerfacecolor="none", label="published", linestyle="none")  # fmt: skip
        axis.set_yticks(range(len(lessons)), [lesson.name for lesson in lessons])
        axis.set_ylim(len(lessons) - 0.5, -0.5)
        axis.set(xlabel="points of test top-1, minus the experiment it builds on")
        axis.grid(axis="x", alpha=0.25, linewidth=0.6)
        axis.legend(
            frameon=False, loc="upper center", bbox_to_anchor=(0.5, 1.0 + 0.5 / len(lessons)), ncols=3
        )
        write_atomically(path, lambda file: figure.savefig(file, format="png"))
