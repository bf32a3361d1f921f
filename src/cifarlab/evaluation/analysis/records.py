"""Records of an analysis: the content of `analysis.json`."""

from __future__ import annotations

from typing import cast

from pydantic import Field, field_validator, model_validator

from cifarlab.core.records import Record
from cifarlab.evaluation.published import Placement

# A heat map of more classes has no room for their names.
MOST_CLASSES = 30


class Bin(Record):
    """Pictures of similar confidence."""

    count: int
    confidence: float
    accuracy: float


class Scaled(Record):
    """Calibration after temperature scaling."""

    nll: float
    ece: float
    reliability: list[Bin]


class Confusion(Record):
    """Numbers of pictures by true class (row) and predicted class (column)."""

    names: list[str]
    counts: list[list[int]]

    @model_validator(mode="after")
    def _is_square(self) -> Confusion:
        if {len(self.names)} != {len(self.counts), *map(len, self.counts)}:
            raise ValueError("expected one row and one column for each name")
        return self


class Unseen(Record):
    """Accuracy without near duplicates of training pictures, and on them alone.

    Exact copies count as near duplicates.
    """

    near_duplicates: int
    top1: float | None
    top1_on_near_duplicates: float | None


class Error(Record):
    """The number of pictures of class `label` that are predicted as class `guess`."""

    label: str
    guess: str
    count: int


class PictureRow(Record):
    """A noteworthy picture.

    Attributes:
        position: Position in the split.
        id: Position in the canonical order of the published part.
        label: Name of its class.
        guess: Name of the predicted class, the most probable one.
        probability: Probability of `guess`.
    """

    position: int
    id: int
    label: str
    guess: str
    probability: float
    probability_of_label: float


class AnalysisFile(Record):
    """The content of `analysis.json`.

    Accuracies are fractions.

    Attributes:
        run: Path of the run, as the user gave it.
        epoch: The chosen epoch.
        split: The split that was scored.
        pictures: Number of scored pictures.
        remark: A remark that the accuracy is optimistic, or empty.
        warnings: Warnings, one line each.
        nll: Mean negative log-likelihood, in nats.
        ece: Expected calibration error.
        temperatures: The temperature fitted on validation. For validation pictures themselves, one for each
            half of them, fitted on the other half.
        by_class: Accuracies, the lowest first. None for a class without pictures.
        most_confused: The most frequent errors.
        confusion: Numbers of pictures by true class (row) and predicted class (column).
        by_superclass: Like `by_class`. Not set if the data set has no superclasses.
        train_top1: Accuracy on as many training pictures, unaugmented, as were scored.
        gap: `train_top1` minus `top1`, the accuracy on the scored pictures.
        without_near_duplicates: Accuracy without the near duplicates of training pictures, and on them alone.
            None if they were not searched.
        corruptions: Top-1 at severities 1 to 5 by kind, and `mean`, the mean of all. Set if requested.
        hardest: Pictures with the lowest probability of their label, the lowest first.
        confident_errors: Errors with the highest probability, the highest first.
        anchor: Comparison with published accuracies. None if none are known.
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
            raise ValueError("it has no mean")
        return worse

    @property
    def by_corruption(self) -> dict[str, list[float]]:
        """Top-1 at severities 1 to 5 by kind. Empty if not scored."""
        return {kind: values for kind, values in (self.corruptions or {}).items() if isinstance(values, list)}

    @property
    def corrupted_top1(self) -> float | None:
        """Mean top-1 over kinds and severities."""
        return cast("float", self.corruptions["mean"]) if self.corruptions else None

    @property
    def worth_a_look(self) -> tuple[list[PictureRow], list[PictureRow]]:
        """Return the hardest pictures, and the most confident errors."""
        return self.hardest, self.confident_errors

    @property
    def matrix(self) -> Confusion | None:
        """Confusion matrix of superclasses, or of at most MOST_CLASSES classes."""
        if self.superclass_confusion is not None:
            return self.superclass_confusion
        few = 2 <= len(self.classes) <= MOST_CLASSES
        return Confusion(names=self.classes, counts=self.confusion) if few else None

    def figures(self) -> dict[str, float | None]:
        """Return the scores for the comparison of runs.

        Scores are fractions, NLL is in nats. Scores that were not measured are None.
        """
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
