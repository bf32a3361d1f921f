"""Differences in accuracy between groups of runs, from the scores in their summaries.

The runs of a group have the same name and differ in the seed only. A ladder is a series of groups, its rungs.
Each rung adds a change to the previous one.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import PurePosixPath

from cifarlab.core.errors import ConfigError, unknown
from cifarlab.experiments.records import JudgedDifference, Metric
from cifarlab.experiments.statistics import difference
from cifarlab.experiments.wording import described, held_out_share, interval, notes, p_value
from cifarlab.report.collect import RunGroup
from cifarlab.report.tables import Cell, Table

HEAD = ("name", "seeds", "difference, points", "95 % interval", "p (Holm)", "verdict")
# Minimum number of rungs of a ladder.
RUNGS = 3


@dataclass(frozen=True)
class AgainstOne:
    """The differences of all names from the name `against`.

    Attributes:
        metric: The accuracy that is compared: val or test.
        against: The name that the others are compared with.
        records: The difference of each other name, by name: its score minus that of `against`.
        notes: Reasons why the names are not fully comparable, one line each.
        without: The names that lack the score. They are not compared.
    """

    metric: Metric
    against: str
    records: dict[str, JudgedDifference]
    notes: list[str]
    without: list[str]

    def table(self) -> Table:
        """Return the differences as a table of the page."""
        rows = []
        for name, record in self.records.items():
            pairs = f"{record.seeds} pair{'s' * (record.seeds != 1)}"
            rows.append(
                [
                    Cell(name, name),
                    Cell(pairs if record.paired else "unpaired", record.seeds),
                    Cell(f"{100 * record.mean:+.2f}", record.mean),
                    Cell(interval(record, "+.2f"), record.low),
                    Cell(p_value(record.p_holm), record.p_holm),
                    Cell(record.verdict, record.verdict),
                ]
            )
        return Table(HEAD, rows)


def compare_names(groups: Sequence[RunGroup], *, against: str | None = None) -> AgainstOne | None:
    """Compare all names with one, on validation or else on test.

    Test is used if fewer than two names have validation scores, or `against` has no validation score.

    Args:
        groups: The runs of each name.
        against: The name that the others are compared with. Default: the first with a score.

    Returns:
        The differences. None if fewer than two names have a score.

    Raises:
        ConfigError: `against` is unknown, or no other name has a score on a split on which `against` has one.
    """
    if against is not None and against not in (names := {group.name for group in groups}):
        raise ConfigError(f"--against {against}: {unknown(against, names)}")
    metrics: tuple[Metric, Metric] = ("val", "test")
    for metric in metrics:
        scored = [group for group in groups if group.values(f"{metric}_top1")]
        if len(scored) > 1 and against in {None, *(group.name for group in scored)}:
            return _compared(groups, scored, metric, against or scored[0].name)
    if against is not None:
        raise ConfigError(f"--against {against}: no score that it shares with another name")
    return None


def _compared(
    groups: Sequence[RunGroup], scored: Sequence[RunGroup], metric: Metric, against: str
) -> AgainstOne:
    reference = next(group for group in scored if group.name == against)
    others = [group for group in scored if group is not reference]
    found = described([difference(_scores(other, metric), _scores(reference, metric)) for other in others])
    sides = {
        group.name: [(run.summary, held_out_share(run.config)) for run in group.runs]
        for group in [reference, *others]
    }
    return AgainstOne(
        metric,
        against,
        {group.name: record for group, record in zip(others, found, strict=True)},
        notes(sides, metric),
        [group.name for group in groups if group not in scored],
    )


def ladders(groups: Sequence[RunGroup]) -> dict[str, list[RunGroup]]:
    """Find ladders: names in one folder that begin with numbers.

    A ladder has at least RUNGS rungs with validation scores.

    Returns:
        The rungs of each ladder, by folder.
    """
    found: dict[str, dict[str, RunGroup]] = defaultdict(dict)
    for group in groups:
        path = PurePosixPath(group.name)
        number = re.match(r"\d+", path.name)
        if number and group.values("val_top1"):
            # Of names with the same number, the first is the rung: not `12_wide_without_03_crop_flip`.
            found[path.parent.as_posix()].setdefault(number[0], group)
    return {folder: [*rungs.values()] for folder, rungs in found.items() if len(rungs) >= RUNGS}


def steps(rungs: Sequence[RunGroup]) -> list[JudgedDifference]:
    """Return each rung's validation score minus the previous rung's."""
    scores = [_scores(rung, "val") for rung in rungs]
    return described([difference(ours, below) for below, ours in pairwise(scores)])


def _scores(group: RunGroup, metric: Metric) -> dict[int, float]:
    found = {run.seed: run.summary.top1(metric) for run in group.runs}
    return {seed: top1 for seed, top1 in found.items() if top1 is not None}
