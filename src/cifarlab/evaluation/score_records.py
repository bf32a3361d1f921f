"""Records of scoring: accuracies, calibration and cost."""

from __future__ import annotations

from typing import Protocol, TypedDict, cast

from torch import Tensor

from cifarlab.core.records import Record
from cifarlab.engine.calibration import calibration
from cifarlab.engine.scoring import scores


class Measured(TypedDict):
    """The scores that `measure` returns. Each key has the meaning of the same field of `Scores`."""

    top1: float
    top5: float
    loss: float
    nll: float
    ece: float
    temperature: float | None
    nll_calibrated: float | None
    ece_calibrated: float | None


def measure(logits: Tensor, labels: Tensor, temperature: float | None) -> Measured:
    """Score logits (N, C).

    Args:
        logits: Logits (N, C).
        labels: Labels (N,).
        temperature: Divisor of the logits, fitted on validation. None if it was not fitted.
    """
    return cast("Measured", {**scores(logits, labels), **calibration(logits, labels, temperature)})


class Calibrated(Protocol):
    """Any object with the calibration scores that `Scores` has."""

    @property
    def nll(self) -> float:
        """Negative log-likelihood per picture, in nats."""
        ...

    @property
    def ece(self) -> float:
        """Expected calibration error, a fraction."""
        ...

    @property
    def temperature(self) -> float | None:
        """Divisor of the logits, fitted on validation; None if not fitted."""
        ...

    @property
    def nll_calibrated(self) -> float | None:
        """`nll` of the logits divided by `temperature`. None without a temperature."""
        ...

    @property
    def ece_calibrated(self) -> float | None:
        """`ece` of the logits divided by `temperature`. None without a temperature."""
        ...


class Augmentation(Record):
    """A test-time augmentation with its options.

    Attributes:
        name: flip, multi_crop or sizes.
        pixels: Largest shift in pixels, the option of multi_crop. None for other augmentations.
        scales: Factors of the model's input size, the option of sizes. None for other augmentations.
    """

    name: str
    pixels: int | None = None
    scales: list[float] | None = None


class AugmentedScores(Augmentation):
    """The scores of a model with test-time augmentation.

    The model's output is the mean of its outputs over several views of a picture. Fields that are not listed
    have the meaning of the same fields of `Scores`.

    Attributes:
        mean: What is averaged over the views: logits or probabilities.
        forward_passes: Number of views.
    """

    mean: str
    top1: float
    top5: float
    loss: float
    nll: float
    ece: float
    temperature: float | None
    nll_calibrated: float | None
    ece_calibrated: float | None
    forward_passes: int
    images_per_second: float


class Scores(Record):
    """The scores of a run's model on a split.

    It is the model of the epoch that `train.select` chose.

    Attributes:
        run: Path of the run, as the user gave it.
        split: The split that was scored.
        top1: Share of pictures whose most probable class is their label.
        top5: Share of pictures whose label is among the five most probable classes.
        loss: Mean cross-entropy, computed in float32.
        nll: Mean negative log-likelihood, in nats: the cross-entropy, computed in float64.
        ece: Expected calibration error, as a fraction.
        temperature: Divisor of the logits, fitted on validation. None if no pictures were held out, or if
            they cannot be read.
        nll_calibrated: `nll` of the logits divided by `temperature`. None without a temperature.
        ece_calibrated: `ece` of the logits divided by `temperature`. None without a temperature.
        forward_passes: Forward passes for one picture.
        images_per_second: Pictures scored per second.
        tta: Scores with test-time augmentation. None if it was not requested.
        image_size: Side length of the model's input in pixels.
        pictures: Number of scored pictures.
        remark: A remark to print beside the accuracy, e.g. that it is optimistic. May be empty.
        written: Whether a test score was written to the run's summary. False for other splits.
        not_written: Why a test score was not written. None if it was, and for other splits.
        test_opened: How often the test pictures were used. The key `run` counts the uses by this run, `runs`
            the uses by all runs in the same folder of runs.
        warnings: Warnings, one line each.
    """

    run: str
    split: str
    top1: float
    top5: float
    loss: float
    nll: float
    ece: float
    temperature: float | None
    nll_calibrated: float | None
    ece_calibrated: float | None
    forward_passes: int
    images_per_second: float
    tta: AugmentedScores | None
    image_size: int
    pictures: int
    remark: str
    written: bool
    not_written: str | None
    test_opened: dict[str, int]
    warnings: list[str]
