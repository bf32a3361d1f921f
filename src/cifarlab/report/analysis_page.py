"""An analysis as one picture: the hardest pictures and the most confident errors, and charts below."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from cifarlab.core.files import write_atomically
from cifarlab.data.splits import Split
from cifarlab.evaluation.analysis.records import AnalysisFile, PictureRow
from cifarlab.evaluation.analysis.tiles import picture_at
from cifarlab.report.analyses import PICTURE_HEADINGS
from cifarlab.report.analysis_charts import still_charts
from cifarlab.report.chart_libraries import vl_convert
from cifarlab.report.contact_sheet import COLUMNS, Tile, draw_sheet

TILES = 2 * COLUMNS
# Gap between charts in pixels, scale of a chart's pixels, and width of a chart before scaling.
GAP, SCALE, WIDTH = 20, 1.5, 480


def write_analysis_page(report: AnalysisFile, pictures: Split, out: Path) -> Path:
    """Draw an analysis into a PNG; return its path.

    Args:
        report: The analysis.
        pictures: The split that was analyzed.
        out: Path of the PNG.
    """
    sections = zip(PICTURE_HEADINGS, report.worth_a_look, strict=True)
    tiles = [(title, [_tile(pictures, row) for row in rows[:TILES]]) for title, rows in sections]
    sheet = draw_sheet(tiles, _heading(report))
    charts = [
        Image.open(io.BytesIO(vl_convert.vegalite_to_png(dict(spec), scale=SCALE)))
        for spec in still_charts(report, WIDTH).values()
    ]
    page = _below(sheet, charts)
    write_atomically(out, lambda file: page.save(file, "PNG"))
    return out


def _below(sheet: Image.Image, charts: Sequence[Image.Image]) -> Image.Image:
    """Place charts below the sheet, each in the shorter of two columns."""
    bottoms, places = [sheet.height, sheet.height], []
    for chart in charts:
        column = bottoms.index(min(bottoms))
        places.append((GAP + column * sheet.width // 2, bottoms[column]))
        bottoms[column] += chart.height + GAP
    page = Image.new("RGB", (sheet.width, max(bottoms)), "white")
    page.paste(sheet)
    for chart, place in zip(charts, places, strict=True):
        page.paste(chart, place)
    return page


def _heading(report: AnalysisFile) -> str:
    remark = f" ({report.remark})" if report.remark else ""
    lines = [
        f"{report.run} on {report.split}: top-1 {report.top1:.1%}{remark}, "
        f"top-5 {report.top5:.1%}, on train {report.train_top1:.1%}"
    ]
    if report.anchor:
        lines.append(report.anchor.text)
    return "\n".join(textwrap.fill(line, 150) for line in lines)


def _tile(pictures: Split, row: PictureRow) -> Tile:
    guess = f"{row.guess} {row.probability:.0%}"
    said = guess if row.guess == row.label else f"{guess}\n({row.label})"
    return picture_at(pictures, row.position), said
