"""The report's tables, for page and paper: Markdown, CSV, LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from cifarlab.experiments.statistics import estimate
from cifarlab.report.collect import RunGroup

COLUMN_NAMES = (
    "name",
    "seeds",
    "epochs",
    "val, %",
    "test, %",
    "gap, points",
    "minutes",
    "parameters, M",
    "test opened",
    "chosen on",
)
ANALYZED = {
    "top1": "top-1, %",
    "top5": "top-5, %",
    "superclass": "superclass, %",
    "ece": "ECE, %",
    "ece_after": "ECE after, %",
    "nll": "NLL",
    "nll_after": "NLL after",
    "without_near": "without near duplicates, %",
    "corrupted": "corrupted, %",
}
SPECIAL = {"\\": r"\textbackslash{}", "±": r"$\pm$", "<": "$<$", ">": "$>$", "^": r"\^{}", "~": r"\~{}"}


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: The text.
        number: Value to sort the column by: a number, or a string in columns of text. None if there is none.
    """

    text: str
    number: float | str | None = None


@dataclass(frozen=True)
class Table:
    """A table: the headings of its columns, and its rows."""

    head: tuple[str, ...]
    rows: list[list[Cell]]

    @property
    def worded(self) -> list[bool]:
        """Tell which columns hold text. These are aligned left."""
        return [
            any(isinstance(cell.number, str) for cell in column) for column in zip(*self.rows, strict=True)
        ]


def name_groups(groups: Sequence[RunGroup]) -> Table:
    """Return the main table of the report, one row for each name."""
    return Table(COLUMN_NAMES, [_row(group) for group in groups])


def _row(group: RunGroup) -> list[Cell]:
    summary = group.runs[0].summary
    minutes = fmean(group.values("seconds")) / 60
    parameters = summary.parameters / 1e6
    chosen = summary.chosen_on
    opened = sum(run.opened for run in group.runs)
    return [
        Cell(group.name, group.name),
        Cell(str(len(group.runs)), len(group.runs)),
        Cell(str(summary.epochs), summary.epochs),
        *(percent(group.values(key)) for key in ("val_top1", "test_top1", "gap")),
        Cell(f"{minutes:.1f}", minutes),
        Cell(f"{parameters:.2f}", parameters),
        Cell(f"{opened:,} x", opened),
        Cell("test: optimistic" if chosen == "test" else chosen, chosen),
    ]


def analyzed(groups: Sequence[RunGroup]) -> Table:
    """Return the table of analyses, one row for each name and split."""
    rows = []
    for group in groups:
        for split in sorted({split for run in group.runs for split in run.analyses}, reverse=True):
            found = [run.analyses[split].analysis for run in group.runs if split in run.analyses]
            figures = [analysis.figures() for analysis in found]
            cells = [_over_seeds(key, [each[key] for each in figures]) for key in ANALYZED]
            seeds = Cell(f"{len(found)} of {len(group.runs)}", len(found))
            rows.append([Cell(group.name, group.name), Cell(split, split), seeds, *cells])
    return Table(("name", "split", "seeds", *ANALYZED.values()), rows)


def _over_seeds(key: str, values: Sequence[float | None]) -> Cell:
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return Cell("-")
    return _spread(known, 1, 3) if key.startswith("nll") else percent(known)


def percent(values: Sequence[float]) -> Cell:
    """Format the mean and half the width of its interval, in percent.

    It is the 95 % interval over seeds.
    """
    return _spread(values, 100, 2)


def _spread(values: Sequence[float], scale: float, digits: int) -> Cell:
    if not values:
        return Cell("-")
    if len(values) == 1:
        return Cell(f"{scale * values[0]:.{digits}f}", values[0])
    found = estimate(values)
    half = scale * (found.high - found.low) / 2
    return Cell(f"{scale * found.mean:.{digits}f} ± {half:.{digits}f}", float(found.mean))


def markdown(table: Table) -> str:
    """Format a table in Markdown."""
    lines = [table.head, ("---",) * len(table.head), *([cell.text for cell in row] for row in table.rows)]
    return "".join("| " + " | ".join(text.replace("|", r"\|") for text in line) + " |\n" for line in lines)


def comma_separated(table: Table) -> str:
    """Format a table as CSV."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(table.head)
    writer.writerows([cell.text for cell in row] for row in table.rows)
    return out.getvalue()


def latex(table: Table) -> str:
    """Format a table in LaTeX, with booktabs."""
    columns = "".join("l" if worded else "r" for worded in table.worded)
    lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule"]
    lines += [" & ".join(map(_escaped, table.head)) + r" \\", r"\midrule"]
    lines += [" & ".join(_escaped(cell.text) for cell in row) + r" \\" for row in table.rows]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def _escaped(text: str) -> str:
    return "".join(SPECIAL.get(c, "\\" + c if c in "_%&#${}" else c) for c in text)
