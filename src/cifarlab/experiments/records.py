"""Records of comparisons, ladders and reproductions, as they are written in JSON.

A name stands for its runs, which differ in the seed only. The rungs of a ladder are its recipes; the top is
the last one (`experiments.ladder`). The experiments of the published tutorial (`experiments.tutorial`) have
two sides: `as_run`, trained as the published code does, and `corrected`, trained without that code's defects.
"""

from __future__ import annotations

from typing import Literal

from pydantic import ConfigDict, Field

from cifarlab.core.records import Record

Metric = Literal["val", "test"]
Budget = Literal["short", "whole"]
# The two ways to train the tutorial's experiments.
SideName = Literal["as_run", "corrected"]


class JudgedDifference(Record):
    """The difference between two names' mean scores, and its significance over seeds.

    Differences are fractions. Values that cannot be computed from one seed are None.

    Attributes:
        against: The name whose score is subtracted; in JSON `from`. None if another field, such as
            `Lesson.builds_on`, tells what is subtracted.
        paired: Whether the scores are compared seed by seed.
        seeds: Number of pairs. If unpaired, the smaller of the two numbers of seeds.
        mean: The difference.
        low: Lower end of its 95 % interval.
        high: Upper end of its 95 % interval.
        p: The p-value of the hypothesis that there is no difference.
        p_holm: The p-value, corrected for the number of comparisons.
        shown: Whether the difference is significant: `p_holm` is below 0.05 and the interval excludes 0.
        smallest: The smallest true difference that would be significant with probability 0.8 at this number
            of seeds.
        more_seeds: Number of further seeds at which a true difference of `mean` would be significant with
            probability 0.8. None if more than 1,000 seeds in total are needed, or if it is unknown.
        verdict: The verdict in words.
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
    """The scores of the runs of one name in a comparison.

    Attributes:
        name: Name of the runs.
        recipe: Name of the recipe that trained them.
        chosen_on: "val" or "test": split whose accuracy chose the epoch. "last": the last epoch. Joined by
            ", " if it differs between the runs.
        seeds: Seeds in the order of `scores`.
        scores: Accuracies, as fractions.
        n: Number of seeds.
        mean: Mean of the scores.
        sd: Standard deviation of the scores. None for one seed.
        low: Lower end of the mean's 95 % interval. None for one seed.
        high: Upper end of the mean's 95 % interval. None for one seed.
        optimism: Estimated increase of the scores by the choice of the best epoch, as a fraction. None if it
            is unknown, or the epochs were not chosen by these scores.
        minutes: Mean duration of a run in minutes.
        difference: Difference from the name that this one is compared with. None for the first name.
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
    """A comparison of names.

    Attributes:
        metric: The accuracy that is compared: val or test.
        arms: One row for each name, in the order in which the user gave them.
        notes: Reasons why the names are not fully comparable, one line each.
        test_opened: How often all runs in the folder of runs have used the test set so far.
    """

    metric: Metric
    arms: list[ComparisonRow]
    notes: list[str]
    test_opened: int


class LeftOut(Record):
    """A row of `LadderComparison.drop_one`.

    Attributes:
        left_out: Name of the rung whose change is left out of the top.
    """

    left_out: str


class KeptChange(LeftOut):
    """A row for a rung whose change cannot be left out of the top.

    Attributes:
        kept: The reason.
    """

    kept: str


# The fields of the last base class come first.
class DroppedChange(ComparisonRow, LeftOut):
    """The scores of the top without the change of the rung `left_out`.

    `difference` is the score of the top minus these scores.
    """


class LadderComparison(Comparison):
    """The comparison of a ladder's rungs, and of the top with one change left out at a time.

    Attributes:
        drop_one: One row for each rung but the first: the scores without its change, or why there are none.
    """

    drop_one: list[DroppedChange | KeptChange]


class ReproducedSide(Record):
    """The scores of one side of a tutorial's experiment. The fields are those of `ComparisonRow`."""

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
    """An experiment of the tutorial: its published accuracy and the scores of both sides.

    Attributes:
        name: Name of the experiment and of its corrected runs.
        what: What the experiment changes.
        published: Published accuracy on test, as a fraction. None if there is none.
        as_run: Scores with the published code's procedure. None if it was not measured.
        corrected: Scores without that code's defects. None if it was not measured.
        missing: Reason why a side was not measured, by side.
        difference: `corrected` minus `as_run`. None if a side is missing.
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
        """Return both sides by name, `as_run` first."""
        return {"as_run": self.as_run, "corrected": self.corrected}


class Lesson(Record):
    """What an experiment gains over the one that it builds on.

    Attributes:
        name: Name of the experiment.
        what: What the experiment changes.
        builds_on: Name of the other experiment, in JSON `from`.
        published: The published gain, as a fraction. None if one of the two accuracies is not published.
        as_run: The gain with the published code's procedure. None if it was not measured.
        corrected: The gain without that code's defects. None if it was not measured.
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
        """Return both sides by name, `as_run` first."""
        return {"as_run": self.as_run, "corrected": self.corrected}


class StandIn(Record):
    """The run whose weights are used in place of ImageNet-pretrained ones.

    Attributes:
        recipe: Name of its recipe.
        epochs: Number of its epochs.
        backbone: Name of its backbone.
        image_size: Side length of the model's input in pixels.
    """

    recipe: str
    epochs: int
    backbone: str
    image_size: int


class MeasuredOn(Record):
    """The machine and software of a reproduction: fields of the first run's `Environment`."""

    hardware: dict[str, str | int | None]
    versions: dict[str, str]
    precision: str
    time: str
    git: dict[str, str | bool | None] | None


class Reproduction(Record):
    """A reproduction of the tutorial's table.

    Attributes:
        budget: The training budget: short or whole.
        pictures: Number of training pictures. None: all.
        epochs: Epochs of a run.
        overrides: Overrides in addition to those of the budget.
        start: The run whose weights are used in place of ImageNet-pretrained ones. None: the latter are used.
        rows: One row for each experiment, in the tutorial's order.
        lessons: What each experiment gains over the one that it builds on.
        env: The machine and software.
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
