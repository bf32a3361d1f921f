"""Charts of an analysis: Vega-Lite specifications, and the rows of data that they draw.

The kinds of charts are the keys of ANALYSIS_CHARTS.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from cifarlab.evaluation.analysis.records import AnalysisFile
from cifarlab.report.chart_libraries import altair as alt
from cifarlab.report.plot import COLORS
from cifarlab.report.specs import ChartRows, ChartSpec

# Heights in pixels: of a row in charts that name their rows, and of all other charts.
STEP, HEIGHT = 17, 300
# Number of worst and of best classes that are shown, and of the most frequent errors.
ENDS, COMMONEST = 10, 12
ROWS = alt.NamedData(name="rows")


def specifications() -> dict[str, ChartSpec]:
    """Return the specification of each kind of chart, without data."""
    made = {kind: chart() for kind, (_, chart, _) in ANALYSIS_CHARTS.items()}
    # The height depends on the rows only, not on the surrounding page.
    fit = alt.AutoSizeParams(type="fit-x", contains="padding")
    return {kind: chart.properties(width="container", autosize=fit).to_dict() for kind, chart in made.items()}


def filling(analysis: AnalysisFile) -> dict[str, ChartSpec]:
    """Return, by kind of chart, the part of its specification that depends on the analysis.

    That part is the height and the data. `specifications` returns the other part. Kinds without data are left
    out.
    """
    found = {kind: rows(analysis) for kind, (_, _, rows) in ANALYSIS_CHARTS.items()}
    return {
        kind: {"height": _height(kind, rows), "datasets": {"rows": rows}}
        for kind, rows in found.items()
        if rows
    }


def still_charts(analysis: AnalysisFile, width: int) -> dict[str, ChartSpec]:
    """Return complete specifications of the charts that have data, by kind.

    Args:
        analysis: The analysis.
        width: Width of each chart in pixels.
    """
    empty = specifications()
    titles = {kind: heading for kind, (heading, _, _) in ANALYSIS_CHARTS.items()}
    return {
        kind: {**empty[kind], **rows, "width": width, "title": titles[kind]}
        for kind, rows in filling(analysis).items()
    }


def _height(kind: str, rows: ChartRows) -> int:
    if kind in ("classes", "errors"):
        return STEP * len(rows)
    return STEP * math.isqrt(len(rows)) if kind == "confusion" else HEIGHT


def _calibration() -> alt.LayerChart:
    unit = alt.Scale(domain=[0, 100])
    colors = alt.Scale(range=[COLORS[0], COLORS[1]])
    base = alt.Chart(ROWS).encode(
        x=alt.X("confidence:Q", title="confidence, %", scale=unit),
        y=alt.Y("accuracy:Q", title="accuracy, %", scale=unit),
        color=alt.Color("kind:N", scale=colors, sort=None, legend=_legend()),
    )
    # Without a name altair would add these values to the datasets, which the rows replace.
    ends = alt.InlineData(name="ideal", values=[{"at": 0}, {"at": 100}])
    ideal = alt.Chart(ends).mark_line(color="#888888", strokeDash=[4, 3]).encode(x="at:Q", y="at:Q")
    points = base.mark_circle(size=60, opacity=1).encode(
        tooltip=[_words("kind"), _number("confidence"), _number("accuracy"), _count()]
    )
    return alt.LayerChart(layer=[ideal, base.mark_line(), points])


def _calibration_rows(analysis: AnalysisFile) -> ChartRows:
    after = analysis.after_temperature
    temperatures = " and ".join(f"{value:.2f}" for value in analysis.temperatures)
    kinds = {
        f"before scaling: ECE {analysis.ece:.1%}, NLL {analysis.nll:.3f}": analysis.reliability,
        f"at temperature {temperatures}: ECE {after.ece:.1%}, NLL {after.nll:.3f}": after.reliability,
    }
    return [
        {"kind": kind, "confidence": _percent(each.confidence), "accuracy": _percent(each.accuracy),
         "pictures": each.count}
        for kind, bins in kinds.items()
        for each in bins
    ]  # fmt: skip


def _confusion() -> alt.Chart:
    axis = alt.Axis(labelLimit=130, labelFontSize=9, ticks=False, domain=False, labelOverlap=False)
    kinds = alt.Scale(domain=["right", "wrong"], range=[COLORS[0], COLORS[1]])
    # A square-root scale makes the rare errors visible beside the many correct answers.
    shares = alt.Scale(type="sqrt", domain=[0, 100], range=[0, 1])
    chart = alt.Chart(ROWS).mark_rect()
    return chart.encode(
        x=alt.X("guess:N", sort=None, title="predicted class", axis=axis),
        y=alt.Y("label:N", sort=None, title="true class", axis=axis),
        color=alt.Color("kind:N", scale=kinds, legend=None),
        opacity=alt.Opacity("share:Q", scale=shares, legend=None),
        tooltip=[
            _words("label", "true"),
            _words("guess", "predicted"),
            _number("share", "share of the true class, %"),
            _count(),
        ],
    )


def _confusion_rows(analysis: AnalysisFile) -> ChartRows:
    if (matrix := analysis.matrix) is None:
        return []
    names = [_said(name) for name in matrix.names]
    return [
        {"label": label, "guess": guess, "pictures": count, "share": _percent(count / max(1, sum(counts))),
         "kind": "right" if label == guess else "wrong"}
        for label, counts in zip(names, matrix.counts, strict=True)
        for guess, count in zip(names, counts, strict=True)
    ]  # fmt: skip


def _classes() -> alt.Chart:
    ends = alt.Scale(domain=["lowest", "highest"], range=[COLORS[1], COLORS[2]])
    return _bars("accuracy", "top-1 %", [_words("name", "class"), _number("accuracy", "top-1 %")]).encode(
        color=alt.Color("end:N", scale=ends, legend=_legend()),
        x=alt.X("accuracy:Q", title="top-1 %", scale=alt.Scale(domain=[0, 100])),
    )


def _classes_rows(analysis: AnalysisFile) -> ChartRows:
    found = [(_said(name), value) for name, value in analysis.by_class.items() if value is not None]
    low = min(ENDS, len(found) // 2)
    ends = {"lowest": found[:low], "highest": found[-min(ENDS, len(found) - low) :]}
    return [
        {"name": name, "accuracy": _percent(value), "end": end}
        for end, some in ends.items()
        for name, value in some
    ]


def _errors() -> alt.Chart:
    return _bars("pictures", "pictures", [_words("name", "confusion"), _count()])


def _errors_rows(analysis: AnalysisFile) -> ChartRows:
    return [
        {"name": f"{_said(each.label)} as {_said(each.guess)}", "pictures": each.count}
        for each in analysis.most_confused[:COMMONEST]
    ]


def _corruptions() -> alt.LayerChart:
    kinds = alt.Color("kind:N", scale=alt.Scale(range=list(COLORS[:4])), sort=None, legend=_legend())
    base = alt.Chart(ROWS).encode(
        x=alt.X("severity:O", title="severity", axis=alt.Axis(labelAngle=0)),
        y=alt.Y("accuracy:Q", title="top-1 %", scale=alt.Scale(zero=True)),
        color=kinds,
    )
    points = base.mark_circle(size=60, opacity=1).encode(
        tooltip=[_words("kind"), _words("severity"), _number("accuracy", "top-1 %")]
    )
    return alt.LayerChart(layer=[base.mark_line(), points])


def _corruptions_rows(analysis: AnalysisFile) -> ChartRows:
    kinds = {
        kind: values for kind, values in (analysis.corruptions or {}).items() if isinstance(values, list)
    }
    return [
        {"kind": _said(kind), "severity": severity, "accuracy": _percent(value)}
        for kind, values in kinds.items()
        for severity, value in enumerate([analysis.top1, *values])
    ]


def _bars(key: str, title: str, tooltip: list[alt.Tooltip]) -> alt.Chart:
    return (
        alt.Chart(ROWS)
        .mark_bar(color=COLORS[0])
        .encode(
            x=alt.X(f"{key}:Q", title=title),
            y=alt.Y("name:N", sort=None, title=None, axis=alt.Axis(labelLimit=180, ticks=False)),
            tooltip=tooltip,
        )
    )


def _legend() -> alt.Legend:
    return alt.Legend(orient="bottom", title=None, labelLimit=330, symbolOpacity=1, symbolSize=100)


def _words(key: str, title: str | None = None) -> alt.Tooltip:
    return alt.Tooltip(f"{key}:N", title=title or key)


def _number(key: str, title: str | None = None) -> alt.Tooltip:
    return alt.Tooltip(f"{key}:Q", title=title or f"{key}, %", format=".1f")


def _count() -> alt.Tooltip:
    return alt.Tooltip("pictures:Q", title="pictures", format=",")


def _percent(fraction: float) -> float:
    return round(100 * fraction, 2)


def _said(name: str) -> str:
    return name.replace("_", " ")


# Heading, specification and rows of each kind of chart.
ANALYSIS_CHARTS: dict[
    str, tuple[str, Callable[[], alt.Chart | alt.LayerChart], Callable[[AnalysisFile], ChartRows]]
] = {
    "confusion": ("Confusion matrix", _confusion, _confusion_rows),
    "calibration": ("Calibration", _calibration, _calibration_rows),
    "classes": ("Accuracy by class", _classes, _classes_rows),
    "errors": ("Most frequent confusions (true as predicted)", _errors, _errors_rows),
    "corruptions": ("Accuracy on corrupted pictures", _corruptions, _corruptions_rows),
}
