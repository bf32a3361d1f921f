"""Sections of the page, one for each name that `cifarlab analyze` has scored.

A name stands for its runs, which differ in the seed only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cifarlab.evaluation.analysis.records import AnalysisFile, PictureRow
from cifarlab.report.analyses import FILES, PICTURE_HEADINGS, data_uri
from cifarlab.report.analysis_charts import filling
from cifarlab.report.collect import Analyzed, RunGroup
from cifarlab.report.specs import ChartSpec


@dataclass(frozen=True)
class PageSection:
    """A section of the page: the analysis of one run, for all runs of its name.

    Attributes:
        name: Name of the run, which it shares with the runs of other seeds.
        seed: Seed of the analyzed run.
        analysis: The analysis.
        charts: Height and data of each chart, by kind, as `filling` returns them.
        grids: By heading, the pictures to show: each as a data URI, with its record in the analysis.
    """

    name: str
    seed: int
    analysis: AnalysisFile
    charts: dict[str, ChartSpec]
    grids: dict[str, list[tuple[str, PictureRow]]]


def sections(groups: Sequence[RunGroup]) -> list[PageSection]:
    """Return a section for each group with an analyzed run.

    A section shows one analysis of its group: that of the first seed that was analyzed on validation. If
    there is none, that of the first seed that was analyzed on test.
    """
    found = []
    for group in groups:
        these = [
            (run.seed, run.analyses[split]) for split in FILES for run in group.runs if split in run.analyses
        ]
        for seed, one in these[:1]:
            found.append(PageSection(group.name, seed, one.analysis, filling(one.analysis), _grids(one)))
    return found


def _grids(analyzed: Analyzed) -> dict[str, list[tuple[str, PictureRow]]]:
    # The analysis lists more pictures than its file of pictures holds.
    rows = zip(PICTURE_HEADINGS, analyzed.tiles, analyzed.analysis.worth_a_look, strict=False)
    return {
        heading: [(data_uri(tile), known) for tile, known in zip(tiles, pictures, strict=False)]
        for heading, tiles, pictures in rows
        if tiles
    }
