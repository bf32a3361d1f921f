"""What `cifarlab analyze` left in a run's folder, read back and checked: the report opens no data set."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any, cast

from PIL import Image
from pydantic import Field, field_validator, model_validator

from cifarlab.core.errors import ConfigError
from cifarlab.core.records import Record
from cifarlab.evaluation.analysis.tiles import pictures_path, read_tiles

# More than a heat map can name.
MOST_CLASSES = 30
# By split, the one that the page prefers first.
FILES = {"val": "analysis.json", "test": "analysis_test.json"}


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
    """A picture worth a look."""

    label: str
    guess: str
    probability: float
    probability_of_label: float


class AnchorEntry(Record):
    """Where the accuracy stands among published ones, in words."""

    text: str


class AnalysisFile(Record):
    """The part of analysis.json that the page shows."""

    epoch: int
    split: str
    pictures: int
    remark: str
    top1: float
    top5: float
    nll: float
    ece: float
    reliability: list[Bin]
    temperatures: list[float]
    after_temperature: Scaled
    by_class: dict[str, float | None]
    most_confused: list[Error]
    superclass_top1: float | None = None
    superclass_confusion: Confusion | None = None
    classes: list[str] = Field(default_factory=list)
    confusion: list[list[int]]
    without_near_duplicates: Unseen | None = None
    corruptions: dict[str, list[float] | float] | None = None
    hardest: list[PictureRow]
    confident_errors: list[PictureRow]
    anchor: AnchorEntry | None

    @field_validator("corruptions")
    @classmethod
    def _has_mean(cls, worse: dict[str, Any] | None) -> dict[str, Any] | None:
        if worse is not None and not isinstance(worse.get("mean"), float):
            raise ValueError("no mean in it")
        return worse

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
        without, worse = self.without_near_duplicates, self.corruptions
        return {
            "top1": self.top1,
            "top5": self.top5,
            "superclass": self.superclass_top1,
            "ece": self.ece,
            "ece_after": self.after_temperature.ece,
            "nll": self.nll,
            "nll_after": self.after_temperature.nll,
            "without_near": without.top1 if without else None,
            "corrupted": cast("float", worse["mean"]) if worse else None,
        }


def read_analysis(path: Path, epoch: int) -> AnalysisFile:
    """An analysis of the model of the run's chosen `epoch`.

    Raises ConfigError for a file that is damaged, something else, or of another epoch's model.
    """
    found = AnalysisFile.read(path)
    if found.epoch != epoch:
        raise ConfigError(
            f"{path}: of epoch {found.epoch}, and the run has chosen epoch {epoch}; say `cifarlab analyze "
            f"{path.parent}` again"
        )
    return found


def tiles_of(path: Path, analysis: AnalysisFile) -> list[list[Image.Image]]:
    """The hardest pictures and the most confident errors; none where the analysis was written without them.

    path: of the analysis. Raises ConfigError for a damaged file.
    """
    sheet = pictures_path(path)
    return read_tiles(sheet, [len(row) for row in analysis.worth_a_look]) if sheet.exists() else []


def data_uri(picture: Image.Image) -> str:
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
