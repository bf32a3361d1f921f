"""The report's charts, drawn by Altair for the page and for papers.

A group holds the runs of one name: seeds of one experiment.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

from cifarlab.experiments.records import JudgedDifference
from cifarlab.experiments.wording import interval
from cifarlab.report.chart_libraries import altair as alt
from cifarlab.report.collect import RunGroup
from cifarlab.report.plot import COLORS
from cifarlab.report.specs import ChartRow, ChartRows, ChartSpec, SpecValue

# Colors that are visible on white and on black: the palette without black and yellow.
SEEN = COLORS[:6]
DASHES = ([1, 0], [6, 3], [2, 2], [8, 2, 2, 2])
MARK_SHAPES = ("circle", "square", "triangle-up", "diamond")
# Maximum number of points of a curve. More would be invisible on a screen and enlarge the page.
POINTS = 200
HEIGHT = 300
# Name of the layer that only reacts to the pointer. Pictures leave out its many marks.
HOVER = "hover"
# Kinds of bars in the waterfall chart.
DIFFERENCE_KINDS = ["first", "gain", "loss", "no difference shown"]


def pareto(groups: Sequence[RunGroup]) -> alt.LayerChart:
    """Plot validation accuracy against a run's minutes, with the Pareto front."""
    points = [
        (fmean(group.values("seconds")) / 60, 100 * val, group)
        for group in groups
        if (val := group.mean("val_top1")) is not None
    ]
    points.sort(key=lambda point: (point[0], -point[1]))
    rows: ChartRows = []
    best = float("-inf")
    for minutes, val, group in points:
        rows.append({"name": group.name, "minutes": minutes, "val": val, "seeds": len(group.runs),
                     "front": val > best})  # fmt: skip
        best = max(best, val)
    base = alt.Chart(_data(rows)).encode(
        x=alt.X("minutes:Q", title="minutes a run", scale=_scale([minutes for minutes, _, _ in points])),
        y=alt.Y("val:Q", title="top-1 % on validation", scale=alt.Scale(zero=False)),
    )
    line = base.transform_filter("datum.front").mark_line(strokeDash=[4, 3], color="#888888")
    marks = base.mark_point(size=90, opacity=1, filled=True).encode(
        color=_color(groups, symbol=None), shape=_shape(groups),
        tooltip=_tooltip("name", "minutes", "val", "seeds"),
    )  # fmt: skip
    return _sized(line, marks)


def curves(groups: Sequence[RunGroup], key: str, title: str) -> alt.LayerChart:
    """Plot a logged accuracy by epoch, in percent.

    There is a line for each group: the mean over its seeds. A band shows their range.

    Args:
        groups: The groups of runs.
        key: Key of the accuracy in the logs.
        title: Title of the axis.
    """
    rows: ChartRows = []
    for group in groups:
        logs = [{row["epoch"]: row[key] for row in run.log if key in row} for run in group.runs]
        epochs = sorted(set.intersection(*(set(log) for log in logs)))
        for epoch in _thinned(epochs):
            values = [100 * log[epoch] for log in logs]
            rows.append(_band(group.name, epoch, values))
    return _banded(groups, rows, title)


def gaps(groups: Sequence[RunGroup]) -> alt.LayerChart:
    """Plot training accuracy minus validation accuracy by epoch, in points."""
    rows: ChartRows = []
    for group in groups:
        logs = [
            {row["epoch"]: row["train/top1"] - row["val/top1"] for row in run.log if "val/top1" in row}
            for run in group.runs
        ]
        for epoch in _thinned(sorted(set.intersection(*(set(log) for log in logs)))):
            rows.append(_band(group.name, epoch, [100 * log[epoch] for log in logs]))
    return _banded(groups, rows, "train - validation, points")


def waterfall(rungs: Sequence[RunGroup], steps: Sequence[JudgedDifference]) -> alt.LayerChart:
    """Plot each rung's gain in validation accuracy, in percentage points.

    A rung is one recipe of a ladder. The gain is over the previous rung.

    Args:
        rungs: The runs of each rung of a ladder, in order.
        steps: Difference of each rung but the first from the previous one, as `described` returns it. The
            interval of the difference is drawn at the end of the bar.
    """
    means = [100 * fmean(rung.values("val_top1")) for rung in rungs]
    rows: ChartRows = [{"name": rungs[0].name, "to": means[0], "kind": DIFFERENCE_KINDS[0], "verdict": ""}]
    for rung, before, mean, step in zip(rungs[1:], means[:-1], means[1:], steps, strict=True):
        row: ChartRow = {
            "name": rung.name, "from": before, "to": mean, "verdict": step.verdict,
            "kind": DIFFERENCE_KINDS[1 + (step.mean < 0)] if step.shown else DIFFERENCE_KINDS[3],
            "step": f"{100 * step.mean:+.2f}", "interval": interval(step, "+.2f"),
        }  # fmt: skip
        if step.low is not None and step.high is not None:
            row |= {"low": before + 100 * step.low, "high": before + 100 * step.high}
        rows.append(row)
    # The first bar starts a little below the lowest accuracy, not at 0.
    lowest, highest = min(means), max(means)
    rows[0]["from"] = max(0.0, lowest - 0.1 * max(highest - lowest, 1.0))
    for row, rung in zip(rows, rungs, strict=True):
        row["short"] = rung.name.rpartition("/")[2]
    tooltip = _tooltip("name", "to", "step", "interval", "verdict")
    base = alt.Chart(_data(rows)).encode(
        x=alt.X("short:N", sort=None, title=None, axis=alt.Axis(labelAngle=-35, labelLimit=120))
    )
    scale = alt.Scale(domain=DIFFERENCE_KINDS, range=[COLORS[0], COLORS[2], COLORS[1], "#8a939c"])
    bars = base.mark_bar(width={"band": 0.7}).encode(
        y=alt.Y("from:Q", title="top-1 % on validation", scale=alt.Scale(zero=False)),
        y2="to:Q",
        color=alt.Color("kind:N", scale=scale, legend=_legend("square")),
        tooltip=tooltip,
    )
    # Ticks make bars of almost no height visible.
    ends = base.mark_tick(thickness=2, width={"band": 0.7}).encode(
        y="to:Q", color=alt.Color("kind:N", scale=scale, legend=_legend("square")), tooltip=tooltip
    )
    rules = base.transform_filter("isValid(datum.low)").mark_rule(strokeWidth=1.5, color="#333333")
    return _sized(bars, ends, rules.encode(y="low:Q", y2="high:Q", tooltip=tooltip))


def still(spec: ChartSpec) -> ChartSpec:
    """Remove the interactive parts of a specification, to save a picture."""
    layers = [layer for layer in _parts(spec, "layer") if layer.get("name") != HOVER]
    params = [param for param in _parts(spec, "params") if HOVER not in _listed(param, "views")]
    return {**spec, **({"layer": layers} if layers else {}), "params": params}


def _listed(spec: ChartSpec, key: str) -> list[SpecValue]:
    found = spec.get(key)
    return found if isinstance(found, list) else []


def _parts(spec: ChartSpec, key: str) -> list[ChartSpec]:
    return [part for part in _listed(spec, key) if isinstance(part, dict)]


def _band(name: str, epoch: int, values: Sequence[float]) -> ChartRow:
    return {"name": name, "epoch": epoch, "mean": fmean(values), "low": min(values), "high": max(values)}


def _banded(groups: Sequence[RunGroup], rows: ChartRows, title: str) -> alt.LayerChart:
    # A press on a name in the legend shows that name only.
    chosen = alt.selection_point(fields=["name"], bind="legend")
    base = alt.Chart(_data(rows)).encode(
        x=alt.X("epoch:Q", title="epoch", axis=alt.Axis(tickMinStep=1)), color=_color(groups)
    )
    band = base.mark_area().encode(
        y="low:Q", y2="high:Q", opacity=alt.condition(chosen, alt.value(0.18), alt.value(0.0))
    )
    line = base.mark_line().encode(
        y=alt.Y("mean:Q", title=title),
        strokeDash=_dash(groups),
        opacity=alt.condition(chosen, alt.value(1), alt.value(0.1)),
    )
    # A thin line is hard to point at, so the nearest point reacts.
    near = alt.selection_point(nearest=True, on="pointerover", empty=False, clear="pointerout")
    points = (
        base.properties(name=HOVER)
        .mark_circle(size=60)
        .encode(
            y="mean:Q",
            opacity=alt.condition(near, alt.value(1), alt.value(0)),
            tooltip=_tooltip("name", "epoch", "mean", "low", "high"),
        )
    )
    return _sized(band, line.add_params(chosen), points.add_params(near))


def _data(rows: ChartRows) -> alt.InlineData:
    rounded = [
        {key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()}
        for row in rows
    ]
    return alt.InlineData(values=rounded)


def _thinned(epochs: list[int]) -> list[int]:
    step = max(1, -(-len(epochs) // POINTS))
    return epochs[::-1][::step][::-1]


def _color(groups: Sequence[RunGroup], symbol: str | None = "stroke") -> alt.Color:
    domain = [group.name for group in groups]
    colors = [SEEN[i % len(SEEN)] for i in range(len(domain))]
    return alt.Color("name:N", scale=alt.Scale(domain=domain, range=colors), legend=_legend(symbol))


def _dash(groups: Sequence[RunGroup]) -> alt.StrokeDash:
    """Return line styles that tell names of the same color apart."""
    return alt.StrokeDash("name:N", scale=_by_round(groups, DASHES), legend=_legend("stroke"))


def _shape(groups: Sequence[RunGroup]) -> alt.Shape:
    """Return mark shapes that tell names of the same color apart."""
    return alt.Shape("name:N", scale=_by_round(groups, MARK_SHAPES), legend=_legend(None))


def _by_round(groups: Sequence[RunGroup], values: Sequence[Any]) -> alt.Scale:
    """Return a scale that gives names of the same color different values."""
    domain = [group.name for group in groups]
    return alt.Scale(domain=domain, range=[values[i // len(SEEN) % len(values)] for i in range(len(domain))])


def _legend(symbol: str | None) -> alt.Legend:
    """Return the legend. Its marks have the shape `symbol`, if given."""
    return alt.Legend(
        orient="bottom", title=None, labelLimit=260, symbolLimit=60,
        symbolType=symbol if symbol is not None else alt.Undefined,
        symbolStrokeWidth=2.5, symbolOpacity=1, symbolSize=120,
    )  # fmt: skip


def _scale(values: Sequence[float]) -> alt.Scale:
    """Return a scale, logarithmic if the largest value exceeds ten times the smallest."""
    wide = values and min(values) > 0 and max(values) > 10 * min(values)
    return alt.Scale(type="log", nice=False, padding=12) if wide else alt.Scale(zero=False)


def _tooltip(*keys: str) -> list[alt.Tooltip]:
    words = {"val": "val, %", "to": "val, %", "low": "lowest seed", "high": "highest seed",
             "step": "step, points", "interval": "95 % interval"}  # fmt: skip
    texts = ("name", "step", "interval", "verdict")
    return [
        alt.Tooltip(f"{key}:{'N' if key in texts else 'Q'}", title=words.get(key, key),
                    format="" if key in (*texts, "epoch", "seeds") else ".2f")
        for key in keys
    ]  # fmt: skip


def _sized(*layers: alt.Chart) -> alt.LayerChart:
    return alt.LayerChart(layer=[*layers]).properties(width="container", height=HEIGHT)
