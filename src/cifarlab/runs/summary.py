"""The summary of a run: what its chosen epoch scores, how the run ended, what it cost."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cifarlab.core.records import Record
from cifarlab.runs.teacher_report import TeacherReport

Selection = Literal["val", "test", "last"]


class SoupIngredient(Record):
    """One model that a soup was offered.

    Attributes:
        run: Its path, as it was given.
        sha256: Of its checkpoint.
        seconds: That its training took, where that is known.
        val_top1: Its own accuracy on validation.
        soup_val_top1: That of the soup with it.
        kept: Whether it is in the soup.
    """

    run: str
    sha256: str
    seconds: float | None
    val_top1: float
    soup_val_top1: float
    kept: bool


class Soup(Record):
    """What a soup is made of; `kept` counts the ingredients in it."""

    kept: int
    ingredients: list[SoupIngredient]


class ScoreAtSize(Record):
    """A test accuracy at another size than the run's own."""

    test_top1: float


class Summary(Record):
    """The content of `summary.json`, which says that a run is finished.

    Accuracies are fractions of the chosen epoch's model on clean pictures.

    Attributes:
        recipe: Name of the recipe.
        epochs: That the configuration asks for.
        epochs_run: That were trained.
        ended_by: The option that ended the run.
        chosen_on: What chose the epoch.
        chosen_epoch: From 1.
        val_top1: None where no pictures were held out.
        test_top1: None until the test pictures were looked at.
        gap: `train_top1` less `val_top1`.
        val_top1_by_image_size: Where the run trained at several sizes.
        by_image_size: Test accuracies at other sizes than the run's own, by pixels a side.
        parameters: Their number in the model that was trained.
        data_fingerprint: Of the training pictures.
        seconds: Over all the processes that the run took.
        images_per_second: Training pictures over `seconds`.
        macs: Multiplications of one picture's forward pass.
        peak_memory_bytes: The most that a process, or the GPU, held.
        warnings: A line each.
        distillation: What the teacher gave, and what it cost.
        soup: Where the weights are a mean of other runs'.
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

    def top1(self, split: str) -> float | None:
        """Return the accuracy on `train`, `val` or `test`; None where it was not measured."""
        return {"train": self.train_top1, "val": self.val_top1, "test": self.test_top1}[split]
