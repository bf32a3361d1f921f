"""What an analysis says of a run's chosen model: the content of analysis.json."""

from __future__ import annotations

from typing import cast

from pydantic import Field, field_validator, model_validator

from cifarlab.core.records import Record
from cifarlab.evaluation.published import Placement

# More than a heat map can name.
MOST_CLASSES = 30


class Bin(Record):
    """Pictures of like confidence."""

    count: int
    confidence: float
    accuracy: float


class Scaled(Record):
    """Calibration after temperature scaling."""

    nll: float
    ece: float
    reliability: list[Bin]


class Confusion(Record):
    """Pictures of a class (row) by what they are taken for (column)."""

    names: list[str]
    counts: list[list[int]]

    @model_validator(mode="after")
    def _is_square(self) -> Confusion:
        if {len(self.names)} != {len(self.counts), *map(len, self.counts)}:
            raise ValueError("not a row and a column a name")
        return self


class Unseen(Record):
    """Accuracy without and on pictures that are, exactly or nearly, among the training pictures."""

    near_duplicates: int
    top1: float | None
    top1_on_near_duplicates: float | None


class Error(Record):
    """What is taken for what, how often."""

    label: str
    guess: str
    count: int


class PictureRow(Record):
    """A picture worth a look.

    Attributes:
        position: In the split.
        id: In the canonical order of the published part.
        label: Name of its class.
        guess: What it is taken for.
        probability: Of the guess.
    """

    position: int
    id: int
    label: str
    guess: str
    probability: float
    probability_of_label: float


class AnalysisFile(Record):
    """The content of analysis.json.

    Accuracies are fractions.

    Attributes:
        run: Its path, as it was given.
        epoch: The chosen one.
        split: Which pictures were scored.
        pictures: How many those are.
        remark: That the accuracy is optimistic, where it is; else empty.
        warnings: A line each.
        nll: Mean negative log-likelihood, in nats.
        ece: Expected calibration error.
        temperatures: One that was fitted on validation, or one for each half of the pictures.
        by_class: Accuracies, the lowest first; None where a class has no pictures.
        most_confused: The commonest errors.
        confusion: Pictures of a class (row) by what they are taken for (column).
        by_superclass: As `by_class`. Superclasses are there where the data set has some.
        train_top1: On as many clean training pictures.
        gap: `train_top1` less `top1`.
        without_near_duplicates: Where near duplicates were looked for.
        corruptions: By kind at severities 1 to 5, and `mean`, the mean of all; where that was asked for.
        hardest: The least probability of the label first.
        confident_errors: The most confident first.
        anchor: Among published accuracies; None where none is known.
    """

    run: str
    epoch: int
    split: str
    pictures: int
    remark: str
    warnings: list[str]
    top1: float
    top5: float
    nll: float
    ece: float
    reliability: list[Bin]
    temperatures: list[float]
    after_temperature: Scaled
    classes: list[str] = Field(default_factory=list)
    by_class: dict[str, float | None]
    most_confused: list[Error]
    confusion: list[list[int]]
    superclass_top1: float | None = None
    by_superclass: dict[str, float] | None = None
    superclass_confusion: Confusion | None = None
    train_top1: float
    gap: float
    without_near_duplicates: Unseen | None = None
    corruptions: dict[str, list[float] | float] | None = None
    hardest: list[PictureRow]
    confident_errors: list[PictureRow]
    anchor: Placement | None

    @field_validator("corruptions")
    @classmethod
    def _has_mean(cls, worse: dict[str, list[float] | float] | None) -> dict[str, list[float] | float] | None:
        if worse is not None and not isinstance(worse.get("mean"), float):
            raise ValueError("no mean in it")
        return worse

    @property
    def by_corruption(self) -> dict[str, list[float]]:
        """Top-1 at severities 1 to 5, by kind; empty where that was not asked for."""
        return {kind: values for kind, values in (self.corruptions or {}).items() if isinstance(values, list)}

    @property
    def corrupted_top1(self) -> float | None:
        """The mean over kinds and severities."""
        return cast("float", self.corruptions["mean"]) if self.corruptions else None

    @property
    def worth_a_look(self) -> tuple[list[PictureRow], list[PictureRow]]:
        return self.hardest, self.confident_errors

    @property
    def matrix(self) -> Confusion | None:
        """Of superclasses, or of classes where those are few enough to be told apart."""
        if self.superclass_confusion is not None:
            return self.superclass_confusion
        few = 2 <= len(self.classes) <= MOST_CLASSES
        return Confusion(names=self.classes, counts=self.confusion) if few else None

    def figures(self) -> dict[str, float | None]:
        """What is compared between names: fractions, and NLL in nats; None where it was not measured."""
        without = self.without_near_duplicates
        return {
            "top1": self.top1,
            "top5": self.top5,
            "superclass": self.superclass_top1,
            "ece": self.ece,
            "ece_after": self.after_temperature.ece,
            "nll": self.nll,
            "nll_after": self.after_temperature.nll,
            "without_near": without.top1 if without else None,
            "corrupted": self.corrupted_top1,
        }
