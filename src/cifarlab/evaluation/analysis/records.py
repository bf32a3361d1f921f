"""Records of an analysis: the content of `analysis.json`."""

from __future__ import annotations

from typing import cast

from pydantic import Field, field_validator, model_validator

from cifarlab.core.records import Record
from cifarlab.evaluation.published import Placement

# A heat map of more classes has no room for their names.
MOST_CLASSES = 30


class Bin(Record):
    """Pictures of similar confidence: a bin of a reliability diagram.

    Attributes:
        count: Number of pictures.
        confidence: Mean probability of their predicted classes.
        accuracy: Accuracy on them, as a fraction.
    """

    count: int
    confidence: float
    accuracy: float


class Scaled(Record):
    """Calibration after temperature scaling.

    Attributes:
        nll: Mean negative log-likelihood, in nats.
        ece: Expected calibration error, as a fraction.
        reliability: Non-empty bins of a reliability diagram.
    """

    nll: float
    ece: float
    reliability: list[Bin]


class Confusion(Record):
    """A confusion matrix.

    Attributes:
        names: Names of the classes or superclasses.
        counts: Numbers of pictures by true class (row) and predicted class (column).
    """

    names: list[str]
    counts: list[list[int]]

    @model_validator(mode="after")
    def _is_square(self) -> Confusion:
        if {len(self.names)} != {len(self.counts), *map(len, self.counts)}:
            raise ValueError("expected one row and one column for each name")
        return self


class Unseen(Record):
    """Accuracy on pictures without and with near duplicates among the training pictures.

    Exact copies count as near duplicates.

    Attributes:
        near_duplicates: Number of scored pictures that have a near duplicate among the training pictures.
        top1: Accuracy on the scored pictures that have none. None if all have one.
        top1_on_near_duplicates: Accuracy on the scored pictures that have one. None if there are none.
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
    """One of the hardest pictures, or of the most confident errors.

    Attributes:
        position: Position in the split that was scored.
        id: Index in the canonical order (`Pictures.order`) of the data set's part that holds the picture,
            e.g. train.
        label: Name of the picture's class.
        guess: Name of the predicted class, the most probable one.
        probability: Probability of `guess`.
        probability_of_label: Probability of `label`.
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
        epoch: Epoch of the scored model, from 1. `train.select` chose it.
        split: The split that was scored: val or test.
        pictures: Number of scored pictures.
        remark: Remark that the accuracy is optimistic, because the epoch was chosen on test. Else empty.
        warnings: Warnings, one line each.
        top1: Accuracy.
        top5: Top-5 accuracy.
        nll: Mean negative log-likelihood, in nats, before temperature scaling.
        ece: Expected calibration error, as a fraction, before temperature scaling.
        reliability: Non-empty bins of a reliability diagram, before temperature scaling.
        temperatures: The temperature that was fitted on validation. If validation itself was scored, or there
            is none: a temperature for each half of the scored pictures, fitted on the other half.
        after_temperature: Calibration after temperature scaling.
        classes: Names of the classes, by label.
        by_class: Accuracy by class, the lowest first. None for a class without pictures.
        most_confused: The most frequent errors, the most frequent first.
        confusion: Numbers of pictures by true class (row) and predicted class (column).
        superclass_top1: Share of pictures whose predicted class lies in the right superclass. None if the
            data set has no superclasses.
        by_superclass: Accuracy on the pictures of each superclass, the lowest first. None without
            superclasses.
        superclass_confusion: Confusion matrix of the superclasses. None without superclasses.
        train_top1: Accuracy on a random subset of the training pictures, unaugmented. It has as many pictures
            as were scored, or all training pictures if there are fewer.
        gap: `train_top1` minus `top1`.
        without_near_duplicates: Accuracy on pictures without and with near duplicates among the training
            pictures. None if they were not searched for.
        corruptions: Top-1 at severities 1 to 5 by kind of corruption; under `mean`, the mean of all. None if
            it was not requested.
        hardest: Pictures with the lowest probability of their label, the lowest first.
        confident_errors: Wrong predictions with the highest probability, the highest first.
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
        """Top-1 by kind of corruption, at severities 1 to 5.

        These are the lists of `corruptions`, without its entry "mean". Empty if that is None.
        """
        return {kind: values for kind, values in (self.corruptions or {}).items() if isinstance(values, list)}

    @property
    def corrupted_top1(self) -> float | None:
        """Mean top-1 over all corruptions and severities. None if not scored."""
        return cast("float", self.corruptions["mean"]) if self.corruptions else None

    @property
    def worth_a_look(self) -> tuple[list[PictureRow], list[PictureRow]]:
        """Return the hardest pictures, and the most confident errors."""
        return self.hardest, self.confident_errors

    @property
    def matrix(self) -> Confusion | None:
        """The confusion matrix to draw: of superclasses if any, else of classes.

        A matrix of classes is drawn for 2 to MOST_CLASSES classes. None for another number.
        """
        if self.superclass_confusion is not None:
            return self.superclass_confusion
        few = 2 <= len(self.classes) <= MOST_CLASSES
        return Confusion(names=self.classes, counts=self.confusion) if few else None

    def figures(self) -> dict[str, float | None]:
        """Return the scores that tables show for each run.

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
