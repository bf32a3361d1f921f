"""Comparisons of runs in words: verdicts, intervals, p-values and notes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from cifarlab.experiments.records import JudgedDifference, Metric
from cifarlab.experiments.statistics import ROUNDING, Difference, holm
from cifarlab.runs.summary import Summary


class HasInterval(Protocol):
    """A record with the ends of a 95 % interval, which are None if there is no interval."""

    @property
    def low(self) -> float | None:
        """Lower end of the interval."""
        ...

    @property
    def high(self) -> float | None:
        """Upper end of the interval."""
        ...


def described(found: Sequence[Difference], *, against: Sequence[str] = ()) -> list[JudgedDifference]:
    """Return differences with corrected p-values and verdicts in words.

    The p-values are corrected for the number of differences.

    Args:
        found: The differences.
        against: For each difference, the name whose score is subtracted. Empty: `against` of the records is
            None.
    """
    tested = [i for i, one in enumerate(found) if not math.isnan(one.p)]
    corrected = dict(zip(tested, holm([found[i].p for i in tested]), strict=True))
    records: list[JudgedDifference] = []
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
        return "no difference shown (one seed is not enough: train more, e.g. --seeds 3)"
    if not found.spread > ROUNDING:
        return "no difference shown (the scores do not vary over seeds, so no test is possible)"
    seeds = "seed" if more == 1 else "seeds"
    settled = f"about {more} more {seeds} would settle it" if more else "1,000 seeds would not settle it"
    # The interval in the same row is not corrected for the number of comparisons.
    among = f" among {comparisons} comparisons, but by itself it would be" if found.shown() else ""
    return (
        f"no difference shown{among} (smallest difference that {found.seeds} seeds would show: "
        f"{100 * smallest:.2f} points; {settled})"
    )


def unless_nan(value: float) -> float | None:
    """Return a plain number; None for nan."""
    return None if math.isnan(value) else float(value)


def held_out_share(config: Mapping[str, Any]) -> str:
    """Return a text that identifies which pictures a run held out.

    `config` is the saved configuration of the run.
    """
    return repr([config["data"].get(key) for key in ("val", "classes", "split_seed")])


def notes(sides: Mapping[str, Sequence[tuple[Summary, str]]], metric: Metric) -> list[str]:
    """List reasons why the runs in a comparison are not fully comparable.

    Args:
        sides: By name of the runs, the summary and `held_out_share` of each run.
        metric: The accuracy that is compared: val or test.
    """
    said: list[str] = []
    runs = [run for side in sides.values() for run in side]
    if len({summary.data_fingerprint for summary, _ in runs}) > 1:
        said.append("not all of these runs were trained on the same data")
    if metric == "val" and len({share for _, share in runs}) > 1:
        said.append(
            "not all of these runs hold out pictures in the same way (data.val, data.classes or "
            "data.split_seed differ)"
        )
    for name, side in sides.items():
        if any(summary.chosen_on == metric == "test" for summary, _ in side):
            said.append(f"{name} chose its epoch on test: optimistic")
    return said


def interval(values: HasInterval, form: str) -> str:
    """Format a 95 % interval of fractions in percent: `41.20 to 42.05`.

    `form` is the format specification of both ends, e.g. `.2f`. Returns `-` if there is no interval.
    """
    if values.low is None or values.high is None:
        return "-"
    return f"{100 * values.low:{form}} to {100 * values.high:{form}}"


def p_value(value: float | None) -> str:
    """Format a p-value with three decimals, `< 0.001`, or `-` for None."""
    if value is None:
        return "-"
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"
