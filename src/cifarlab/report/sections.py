"""What the page shows of each name that `cifarlab analyze` has scored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cifarlab.evaluation.analysis.records import AnalysisFile, PictureRow
from cifarlab.report.analyses import FILES, data_uri
from cifarlab.report.analysis_charts import filling
from cifarlab.report.collect import Analyzed, RunGroup
from cifarlab.report.specs import ChartSpec

HEADINGS = ("Hardest: least probability of the label", "Most confidently wrong")


@dataclass(frozen=True)
class PageSection:
    """One seed's analysis of a name.

    charts: by kind, what fills them. grids: by heading, (data URI, what is known of the picture).
    """

    name: str
    seed: int
    analysis: AnalysisFile
    charts: dict[str, ChartSpec]
    grids: dict[str, list[tuple[str, PictureRow]]]


def sections(groups: Sequence[RunGroup]) -> list[PageSection]:
    """Of each name its first seed that was analyzed, on validation before test."""
    found = []
    for group in groups:
        these = [
            (run.seed, run.analyses[split]) for split in FILES for run in group.runs if split in run.analyses
        ]
        for seed, one in these[:1]:
            found.append(PageSection(group.name, seed, one.analysis, filling(one.analysis), _grids(one)))
    return found


def _grids(analyzed: Analyzed) -> dict[str, list[tuple[str, PictureRow]]]:
    # The analysis names more pictures than it keeps.
    rows = zip(HEADINGS, analyzed.tiles, analyzed.analysis.worth_a_look, strict=False)
    return {
        heading: [(data_uri(tile), known) for tile, known in zip(tiles, pictures, strict=False)]
        for heading, tiles, pictures in rows
        if tiles
    }
