"""The report's table, for the page and for a paper: Markdown, CSV, LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from cifarlab.report.collect import Group
from cifarlab.statistics import estimate

HEAD = (
    "name",
    "seeds",
    "epochs",
    "val, %",
    "test, %",
    "gap, points",
    "minutes",
    "parameters, M",
    "chosen on",
)


@dataclass(frozen=True)
class Cell:
    """What is shown, and the number that it sorts by."""

    text: str
    number: float | str | None = None


_LATEX = str.maketrans(
    {character: "\\" + character for character in "_%&#$" + "{}"}
    | {"\\": r"\textbackslash{}", "^": r"\textasciicircum{}", "~": r"\textasciitilde{}", "±": r"$\pm$"}
)


def rows(groups: Sequence[Group]) -> list[list[Cell]]:
    """A row a name, a cell for each word of HEAD."""
    return [_row(group) for group in groups]


def _row(group: Group) -> list[Cell]:
    summary = group.runs[0].summary
    minutes = fmean(group.values("seconds")) / 60
    parameters = summary["parameters"] / 1e6
    chosen = summary["chosen_on"]
    return [
        Cell(group.name, group.name),
        Cell(str(len(group.runs)), len(group.runs)),
        Cell(str(summary["epochs"]), summary["epochs"]),
        _percent(group, "val_top1"),
        _percent(group, "test_top1"),
        _percent(group, "gap"),
        Cell(f"{minutes:.1f}", minutes),
        Cell(f"{parameters:.2f}", parameters),
        Cell("test: optimistic" if chosen == "test" else chosen, chosen),
    ]


def _percent(group: Group, key: str) -> Cell:
    """Mean and half the 95 % interval over seeds; of one seed the value alone."""
    values = group.values(key)
    if not values:
        return Cell("-")
    if len(values) == 1:
        return Cell(f"{100 * values[0]:.2f}", values[0])
    found = estimate(values)
    return Cell(f"{100 * found.mean:.2f} ± {100 * (found.high - found.low) / 2:.2f}", float(found.mean))


def markdown(groups: Sequence[Group]) -> str:
    lines = [HEAD, ("---",) * len(HEAD), *([cell.text for cell in row] for row in rows(groups))]
    return "".join("| " + " | ".join(text.replace("|", r"\|") for text in line) + " |\n" for line in lines)


def comma_separated(groups: Sequence[Group]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(HEAD)
    writer.writerows([cell.text for cell in row] for row in rows(groups))
    return out.getvalue()


def latex(groups: Sequence[Group]) -> str:
    """A booktabs table."""
    lines = [r"\begin{tabular}{l" + "r" * (len(HEAD) - 2) + "l}", r"\toprule"]
    lines += [" & ".join(map(_escaped, HEAD)) + r" \\", r"\midrule"]
    lines += [" & ".join(_escaped(cell.text) for cell in row) + r" \\" for row in rows(groups)]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _escaped(text: Any) -> str:
    return text.translate(_LATEX)
