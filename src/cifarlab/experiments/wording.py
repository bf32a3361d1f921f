"""Differences between names, judged and in words: what `compare`, `ladder` and the report say alike."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from cifarlab.experiments.records import JudgedDifference, Metric
from cifarlab.experiments.statistics import ROUNDING, Difference, holm
from cifarlab.runs.summary import Summary


class HasInterval(Protocol):
    """What has a 95 % interval, or has None in its place."""

    @property
    def low(self) -> float | None: ...

    @property
    def high(self) -> float | None: ...


def described(found: Sequence[Difference], *, against: Sequence[str] = ()) -> list[JudgedDifference]:
    """Judge differences: p corrected for their number, each with its verdict in words.

    against: the names that they are differences from, one for each; none: they stay unsaid.
    """
    tested = [i for i, one in enumerate(found) if not math.isnan(one.p)]
    corrected = dict(zip(tested, holm([found[i].p for i in tested]), strict=True))
    records = []
    for i, one in enumerate(found):
        p, smallest, more = corrected.get(i), one.smallest(len(tested)), one.more_seeds(len(tested))
        shown = p is not None and bool(one.shown(p))
        records.append(
            JudgedDifference(
                paired=one.paired,
                seeds=one.seeds,
                mean=float(one.mean),
                low=unless_nan(one.low),
                high=unless_nan(one.high),
                p=unless_nan(one.p),
                p_holm=p,
                shown=shown,
                smallest=unless_nan(smallest),
                more_seeds=more,
                verdict=_verdict(one, shown, smallest, more, len(tested)),
            )
        )
    if not against:
        return records
    return [record.changed(against=name) for record, name in zip(records, against, strict=True)]


def _verdict(found: Difference, shown: bool, smallest: float, more: int | None, comparisons: int) -> str:
    if shown:
        return f"{'better' if found.mean > 0 else 'worse'} by {100 * abs(found.mean):.2f} points"
    if math.isnan(found.p):
        return "no difference shown (one seed cannot show any: train more, e.g. --seeds 3)"
    if not found.spread > ROUNDING:
        return "no difference shown (the seeds do not spread: nothing to judge by)"
    seeds = "seed" if more == 1 else "seeds"
    settled = f"about {more} more {seeds} would settle it" if more else "1,000 seeds would not settle it"
    # Its interval stands beside it, and is its own alone.
    among = f" among {comparisons} comparisons, though one would be by itself" if found.shown() else ""
    return (
        f"no difference shown{among} (smallest difference that {found.seeds} seeds would show: "
        f"{100 * smallest:.2f} points; {settled})"
    )


def unless_nan(value: float) -> float | None:
    """Return a plain number, None for what is not known."""
    return None if math.isnan(value) else float(value)


def held_out_share(config: Mapping[str, Any]) -> str:
    """Say which pictures a saved configuration held out."""
    return repr([config["data"].get(key) for key in ("val", "classes", "split_seed")])


def notes(sides: Mapping[str, Sequence[tuple[Summary, str]]], metric: Metric) -> list[str]:
    """A line for each thing that makes the sides of a comparison less alike than they look.

    sides: by name, of each run its summary and what it held out, as `held_out_share` says it.
    """
    said = []
    runs = [run for side in sides.values() for run in side]
    if len({summary.data_fingerprint for summary, _ in runs}) > 1:
        said.append("not all of these runs were given the same pictures")
    if metric == "val" and len({share for _, share in runs}) > 1:
        said.append("not all of these runs were validated on the same share of the pictures")
    for name, side in sides.items():
        if any(summary.chosen_on == metric == "test" for summary, _ in side):
            said.append(f"{name} chose its epoch on test: optimistic")
    return said


def interval(values: HasInterval, form: str) -> str:
    """A 95 % interval of fractions, in percent: `41.20 to 42.05`; of one seed there is none."""
    if values.low is None or values.high is None:
        return "-"
    return f"{100 * values.low:{form}} to {100 * values.high:{form}}"


def p_value(value: float | None) -> str:
    """Format a p value with three decimals, `< 0.001` or `-`."""
    if value is None:
        return "-"
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"
