"""Contact sheets: pictures side by side, with text above each."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from cifarlab.core.files import write_atomically
from cifarlab.evaluation.audit.audit import Audit
from cifarlab.evaluation.audit.report import DuplicatePair, SuspectLabel
from cifarlab.report.plot import STYLE, drawn

COLUMNS, SHOWN = 8, 24
Tile = tuple[np.ndarray, str]  # A picture (H, W, 3) uint8, and the text above it.


def write_audit_sheet(audit: Audit, out: Path) -> Path:
    """Draw an audit's first SHOWN findings of each kind; return the path.

    Kinds are exact duplicates, near duplicates and suspect labels. Duplicates across parts (train, val, test)
    come before those within a part.
    """
    sections = []
    report = audit.report
    across = sorted(report.pairs, key=lambda row: row.pictures[0][0] == row.pictures[1][0])
    kinds = [("exact", "Exact duplicates")]
    if report.near is not None:
        kinds.append(("near", "Near duplicates"))
    for kind, title in kinds:
        rows = [row for row in across if row.kind == kind]
        sections.append((f"{title}: {len(rows):,} pairs", [_pair(audit, row) for row in rows[:SHOWN]]))
    if (found := report.suspected) is not None:
        rows = found.suspects
        title = f"Suspect labels: {len(rows):,} of {found.suspects_among:,} pictures"
        sections.append((title, [_suspect(audit, row) for row in rows[:SHOWN]]))
    sheet = draw_sheet(sections, f"Audit of {report.dataset}")
    write_atomically(out, lambda file: sheet.save(file, "PNG"))
    return out


def _pair(audit: Audit, row: DuplicatePair) -> Tile:
    both = [audit.picture(part, index) for part, index in row.pictures]
    gap = np.full((both[0].shape[0], max(1, both[0].shape[1] // 16), 3), 255, np.uint8)
    named = [f"{part} {index}: {label}"
             for (part, index), label in zip(row.pictures, row.labels, strict=True)]  # fmt: skip
    return np.concatenate([both[0], gap, both[1]], 1), "\n".join(named)


def _suspect(audit: Audit, row: SuspectLabel) -> Tile:
    said = f"{row.label} {row.probability_of_label:.0%}\n{row.suggested}? "
    return audit.picture(*row.picture), said + f"{row.probability_of_suggested:.0%}"


def draw_sheet(sections: Sequence[tuple[str, Sequence[Tile]]], title: str) -> Image.Image:
    """Draw titled sections of pictures with text, COLUMNS in a row."""
    # A section without pictures is a heading only, a third of a row high.
    lines = [_num_lines(tiles) if tiles else 1 / 3 for _, tiles in sections]
    with mpl.rc_context(STYLE):
        height = 0.6 + 0.25 * title.count("\n") + sum(1.5 * n + 0.5 for n in lines)
        figure = Figure(figsize=(14, height), layout="constrained", dpi=110)
        figure.suptitle(title, fontsize=13)
        parts = np.atleast_1d(np.asarray(figure.subfigures(len(sections), 1, height_ratios=lines)))
        for part, (heading, tiles) in zip(parts, sections, strict=True):
            _show_tiles(part, heading, tiles)
        return drawn(figure)


def _show_tiles(figure: Any, heading: str, tiles: Sequence[Tile]) -> None:
    figure.suptitle(heading, fontsize=11, fontweight="bold")
    for i, axis in enumerate(figure.subplots(_num_lines(tiles), COLUMNS, squeeze=False).flat):
        axis.set_axis_off()
        if i < len(tiles):
            picture, text = tiles[i]
            axis.imshow(picture, interpolation="nearest")
            short = [textwrap.shorten(line.replace("_", " "), 32) for line in text.split("\n")]
            axis.set_title("\n".join(short), fontsize=7, fontweight="normal", pad=2)


def _num_lines(tiles: Sequence[Tile]) -> int:
    return max(1, -(-len(tiles) // COLUMNS))
