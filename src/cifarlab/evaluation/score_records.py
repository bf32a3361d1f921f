"""What scoring returns: records of accuracies, calibration and cost."""

from __future__ import annotations

from typing import Protocol, TypedDict, cast

from torch import Tensor

from cifarlab.core.records import Record
from cifarlab.engine.calibration import calibration
from cifarlab.engine.scoring import scores


class Measured(TypedDict):
    """What logits and labels say, as `Scores` names it."""

    top1: float
    top5: float
    loss: float
    nll: float
    ece: float
    temperature: float | None
    nll_calibrated: float | None
    ece_calibrated: float | None


def measure(logits: Tensor, labels: Tensor, temperature: float | None) -> Measured:
    """Score logits (N, C). temperature: fitted on validation; None: there are no such pictures."""
    return cast("Measured", {**scores(logits, labels), **calibration(logits, labels, temperature)})


class Calibrated(Protocol):
    """A record that says how well what was scored knows itself."""

    @property
    def nll(self) -> float: ...
    @property
    def ece(self) -> float: ...
    @property
    def temperature(self) -> float | None: ...
    @property
    def nll_calibrated(self) -> float | None: ...
    @property
    def ece_calibrated(self) -> float | None: ...


class Augmentation(Record):
    """A test-time augmentation; `pixels` and `scales` are options of those that have them."""

    name: str
    pixels: int | None = None
    scales: list[float] | None = None


class AugmentedScores(Augmentation):
    """The scores of a model that answers with the mean of what it says of several views.

    Attributes:
        mean: Of what, one of `tta.MEANS`.
        forward_passes: How many views there are.
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
    """The scores of a run's chosen model on a split.

    Attributes:
        run: Its path, as it was given.
        split: Which pictures were scored.
        top1: Share of them whose label the model finds the most probable.
        top5: Share whose label is among the five most probable.
        loss: Mean cross-entropy.
        nll: Mean negative log-likelihood, in nats.
        ece: Expected calibration error.
        temperature: Fitted on validation; None where no pictures were held out.
        nll_calibrated: `nll` at that temperature.
        ece_calibrated: `ece` at that temperature.
        forward_passes: A picture's.
        images_per_second: The pace of scoring.
        tta: The same with test-time augmentation, where that was asked for.
        image_size: Pixels a side that the model saw.
        pictures: How many were scored.
        remark: What to say beside the accuracy, such as that it is optimistic; may be empty.
        written: Whether the accuracy now stands in the run's summary.
        not_written: What keeps a test score out of the summary, if anything does.
        test_opened: How often the test pictures were looked at: for this `run`, and for all `runs` beside it.
        warnings: A line each.
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
