"""The summary of a run, `summary.json`: scores of its chosen epoch, reason of its end, cost.

The chosen epoch is the one that `train.select` selects. Its weights are in `best.pt`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cifarlab.core.records import Record
from cifarlab.runs.teacher_report import TeacherReport

Selection = Literal["val", "test", "last"]


class SoupIngredient(Record):
    """A model that was tried as an ingredient of a soup.

    Attributes:
        run: Path of the model's run, as the user gave it.
        sha256: sha256 of the model's checkpoint.
        seconds: Duration of the model's training in seconds. None if unknown.
        val_top1: Validation accuracy of the model alone, in [0, 1].
        soup_val_top1: Validation accuracy of the soup of this model and those kept before, in [0, 1].
        kept: Whether the model was kept, because the soup was at least as good with it.
    """

    run: str
    sha256: str
    seconds: float | None
    val_top1: float
    soup_val_top1: float
    kept: bool


class Soup(Record):
    """The models that were tried for a soup, a model whose weights are the mean of several models' weights.

    Attributes:
        kept: Number of models in the soup.
        ingredients: The models in the order in which they were tried, kept or not.
    """

    kept: int
    ingredients: list[SoupIngredient]


class ScoreAtSize(Record):
    """Score at an image size other than `data.image_size`.

    Attributes:
        test_top1: Test accuracy, in [0, 1].
    """

    test_top1: float


class Summary(Record):
    """The content of `summary.json`, whose existence marks a run as finished.

    Accuracies are fractions in [0, 1], of the chosen epoch's model on unaugmented pictures. A field is None
    if the value was not measured, or does not apply to the run.

    Attributes:
        recipe: Name of the recipe.
        seed: Seed of the run.
        epochs: `train.epochs`.
        epochs_run: Number of epochs that were trained.
        ended_by: Option that ended the run: `train.epochs`, `train.stop` or `train.patience`.
        chosen_on: Split whose accuracy chose the epoch: `val` or `test`. `last`: the last epoch was chosen.
        chosen_epoch: The chosen epoch, from 1.
        train_top1: Accuracy on the training pictures.
        val_top1: Validation accuracy. None if no pictures were held out.
        test_top1: Test accuracy. None until the model is evaluated on the test pictures.
        val_top1_by_image_size: {side length in pixels, as text: validation accuracy} of a run with
            `data.multi_scale`.
        gap: `train_top1` - `val_top1`.
        parameters: Number of the model's parameters, frozen ones included.
        data_fingerprint: Hash of the data set's train part, including validation pictures drawn from it.
        seconds: Duration of the run in seconds. If the run was resumed, the sum over all sessions.
        images_per_second: Training pictures of all epochs divided by `seconds`.
        macs: Multiply-adds of a forward pass of one picture at `data.image_size`.
        peak_memory_bytes: Peak GPU memory. Without a GPU, peak memory of the process.
        warnings: Warnings about the run, one line each.
        distillation: Measurements of the teacher.
        soup: The models that were tried, if the run is a soup.
        by_image_size: {side length in pixels, as text: score} at sizes other than `data.image_size`.
    """

    recipe: str = ""
    seed: int
    epochs: int
    epochs_run: int | None = None
    ended_by: str | None = None
    chosen_on: Selection
    chosen_epoch: int
    train_top1: float
    val_top1: float | None
    test_top1: float | None
    val_top1_by_image_size: dict[str, float] | None = None
    gap: float | None
    parameters: int
    data_fingerprint: str | None = None
    seconds: float
    images_per_second: float | None = None
    macs: int | None = None
    peak_memory_bytes: int | None = None
    warnings: list[str] = Field(default_factory=list)
    distillation: TeacherReport | None = None
    soup: Soup | None = None
    by_image_size: dict[str, ScoreAtSize] | None = None

    def top1(self, split: Literal["train", "val", "test"]) -> float | None:
        """Return the accuracy on `train`, `val` or `test`. None if it was not measured."""
        return {"train": self.train_top1, "val": self.val_top1, "test": self.test_top1}[split]
