"""The summary of a run: scores of its chosen epoch, end, cost."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cifarlab.core.records import Record
from cifarlab.runs.teacher_report import TeacherReport

Selection = Literal["val", "test", "last"]


class SoupIngredient(Record):
    """A model that was considered for a soup.

    Attributes:
        run: Path of the run, as the user gave it.
        sha256: sha256 of the run's checkpoint.
        seconds: Duration of the run's training, if known.
        val_top1: Validation accuracy of the model alone.
        soup_val_top1: Validation accuracy of the soup with this model added.
        kept: Whether the model is in the soup.
    """

    run: str
    sha256: str
    seconds: float | None
    val_top1: float
    soup_val_top1: float
    kept: bool


class Soup(Record):
    """The models that were considered for a soup. `kept` is the number of those in it."""

    kept: int
    ingredients: list[SoupIngredient]


class ScoreAtSize(Record):
    """The test accuracy at another image size than the run's own."""

    test_top1: float


class Summary(Record):
    """The content of `summary.json`, whose existence marks a run as finished.

    Accuracies are fractions in [0, 1]. They belong to the model of the chosen epoch on unaugmented pictures.

    Attributes:
        recipe: Name of the recipe.
        seed: Seed of the run.
        epochs: Epochs in the configuration.
        epochs_run: Epochs that were trained.
        ended_by: Option that ended the run, e.g. `train.patience`.
        chosen_on: Split that chose the epoch, or `last`.
        chosen_epoch: The chosen epoch, from 1.
        val_top1: Validation accuracy. None if no pictures were held out.
        test_top1: Test accuracy. None until the test pictures are opened.
        val_top1_by_image_size: Validation accuracy by side length in pixels, if the run trained at several.
        gap: `train_top1` - `val_top1`.
        parameters: Number of the model's parameters.
        data_fingerprint: Fingerprint of the training pictures.
        seconds: Duration of the run over all its processes.
        images_per_second: Training pictures of all epochs divided by `seconds`.
        macs: Multiply-adds of a forward pass of one picture.
        peak_memory_bytes: Peak memory of the process, or of the GPU if there is one.
        warnings: Warnings of the run, one line each.
        distillation: Measurements of the teacher, and the cost of its answers.
        soup: The models of the soup, if the run is one.
        by_image_size: Test accuracy at other sizes than the run's own, by side length in pixels.
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
        """Return the accuracy on `train`, `val` or `test`; None if it was not measured."""
        return {"train": self.train_top1, "val": self.val_top1, "test": self.test_top1}[split]
