"""What comparisons, ladders and reproductions find, as it leaves the process."""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field

from cifarlab.core.records import Record

Metric = Literal["val", "test"]
Budget = Literal["short", "whole"]
# The two ways in which the tutorial's experiments are trained.
SideName = Literal["as_run", "corrected"]


class JudgedDifference(Record):
    """The mean of one name's scores less that of another, and what the seeds show of it.

    Accuracies are fractions. Values that one seed cannot tell are None.

    Attributes:
        against: The other name, in JSON `from`; not set where it stands elsewhere.
        paired: Whether the scores are compared seed by seed.
        seeds: Pairs, or the fewer of two sets that share no seeds.
        mean: The difference itself.
        low: Lower end of its 95 % interval.
        high: Upper end of its 95 % interval.
        p: Of there being no difference.
        p_holm: The same, corrected for the number of comparisons.
        shown: Whether the seeds show a difference.
        smallest: The smallest difference that so many seeds would show.
        more_seeds: How many more seeds would settle it; None: over 1,000, or unknown.
        verdict: In words.
    """

    model_config = ConfigDict(populate_by_name=True)

    against: str | None = Field(default=None, validation_alias="from", serialization_alias="from")
    paired: bool
    seeds: int
    mean: float
    low: float | None
    high: float | None
    p: float | None
    p_holm: float | None
    shown: bool
    smallest: float | None
    more_seeds: int | None
    verdict: str


class ComparisonRow(Record):
    """One name of a comparison over its seeds.

    Attributes:
        name: Of the runs.
        recipe: That they were trained by.
        chosen_on: What chose their epochs.
        seeds: In the order of `scores`.
        scores: Accuracies, as fractions.
        n: Number of seeds.
        mean: Of the scores.
        sd: Their standard deviation; None of one seed.
        low: Lower end of the mean's 95 % interval; None of one seed.
        high: Upper end of the mean's 95 % interval; None of one seed.
        optimism: By how much the choice of the best epoch flatters; None where that is not known.
        minutes: Mean of a run's.
        difference: From the name that this one is compared with; None for the first.
    """

    name: str
    recipe: str
    chosen_on: str
    seeds: list[int]
    scores: list[float]
    n: int
    mean: float
    sd: float | None
    low: float | None
    high: float | None
    optimism: float | None
    minutes: float
    difference: JudgedDifference | None


class Comparison(Record):
    """Names beside each other.

    Attributes:
        metric: Which accuracy is compared.
        arms: A row a name, in the order in which they were given.
        notes: What makes the names less alike than they look, a line each.
        test_opened: How often the test set was opened for the runs of this folder.
    """

    metric: Metric
    arms: list[ComparisonRow]
    notes: list[str]
    test_opened: int


class LeftOut(Record):
    """A rung of a ladder whose change the top is to do without."""

    left_out: str


class KeptChange(LeftOut):
    """A change that cannot be left out, and why."""

    kept: str


# The bases in this order: the fields of the last come first.
class DroppedChange(ComparisonRow, LeftOut):
    """The top without a change; the difference is that of the whole top from it."""


class LadderComparison(Comparison):
    """The rungs of a ladder, and its top without each change."""

    drop_one: list[DroppedChange | KeptChange]


class ReproducedSide(Record):
    """An experiment of the tutorial, trained in one way; its values are those of `ComparisonRow`."""

    mean: float
    sd: float | None
    low: float | None
    high: float | None
    n: int
    seeds: list[int]
    scores: list[float]
    chosen_on: str
    optimism: float | None
    minutes: float


class ReproducedRow(Record):
    """An experiment of the tutorial: as published, as its code runs, and corrected.

    Attributes:
        name: Of the corrected runs.
        what: What the experiment changes.
        published: Accuracy on test, as a fraction.
        as_run: As the published code does it; None where it was not measured.
        corrected: Without that code's defects; None where it was not measured.
        missing: By side, why it was not measured.
        difference: What the correction makes; None where a side is missing.
    """

    name: str
    what: str
    published: float | None
    as_run: ReproducedSide | None
    corrected: ReproducedSide | None
    missing: dict[SideName, str]
    difference: JudgedDifference | None

    @property
    def sides(self) -> dict[SideName, ReproducedSide | None]:
        """Both sides by name, the published code's first."""
        return {"as_run": self.as_run, "corrected": self.corrected}


class Lesson(Record):
    """An experiment less the one that it builds on.

    Attributes:
        name: Of the experiment.
        what: What it changes.
        builds_on: The other experiment, in JSON `from`.
        published: The published difference, as a fraction.
        as_run: None where it was not measured.
        corrected: None where it was not measured.
    """

    model_config = ConfigDict(populate_by_name=True)

    name: str
    what: str
    builds_on: str = Field(validation_alias="from", serialization_alias="from")
    published: float | None
    as_run: JudgedDifference | None
    corrected: JudgedDifference | None

    @property
    def sides(self) -> dict[SideName, JudgedDifference | None]:
        """Both sides by name, the published code's first."""
        return {"as_run": self.as_run, "corrected": self.corrected}


class StandIn(Record):
    """The run whose weights stand in for ImageNet's."""

    recipe: str
    epochs: int
    backbone: str
    image_size: int


class MeasuredOn(Record):
    """What a reproduction ran on, as the first run's `env.json` says."""

    hardware: dict[str, str | int | None]
    versions: dict[str, str]
    precision: str
    time: str
    git: dict[str, str | bool | None] | None


class Reproduction(Record):
    """The tutorial's table again.

    Attributes:
        budget: At which it was trained.
        pictures: How many training pictures; None: all.
        epochs: Of a run.
        overrides: Beside those of the budget.
        start: What stands in for ImageNet's weights, if anything does.
        rows: An experiment each, in the tutorial's order.
        lessons: What the tutorial concludes.
        env: What it ran on.
    """

    budget: Budget
    pictures: int | None
    epochs: int
    overrides: list[str]
    start: StandIn | None
    rows: list[ReproducedRow]
    lessons: list[Lesson]
    env: MeasuredOn


def by_seed(row: ComparisonRow | ReproducedSide) -> dict[int, float]:
    """Return the scores by seed."""
    return dict(zip(row.seeds, row.scores, strict=True))
