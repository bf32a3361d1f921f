"""What an audit says of a data set: the content of audit.json."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Strict

from cifarlab.core.records import Record

# A part, and the index in its canonical order. In JSON a pair is a list.
PictureName = Annotated[tuple[str, int], Strict(False)]
# A class, and how many pictures it has.
ClassSize = Annotated[tuple[str, int], Strict(False)]
# Two parts: ours, whose pictures are among theirs.
Parts = tuple[str, str]


class ClassBalance(Record):
    """The smallest and the largest class, and how many pictures each class has."""

    smallest: ClassSize
    largest: ClassSize
    counts: dict[str, int]


class DuplicatePair(Record):
    """Two pictures that are alike, with their labels. correlation: 1 where they are equal."""

    kind: Literal["exact", "near"]
    pictures: list[PictureName]
    labels: list[str]
    correlation: float


class SuspectLabel(Record):
    """A label that a model contradicts with confidence."""

    picture: PictureName
    label: str
    suggested: str
    probability_of_label: float
    probability_of_suggested: float


class SuspectLabels(Record):
    """What runs say of pictures that they were not trained on.

    Attributes:
        suspects: The most suspect first.
        suspects_among: How many pictures were asked of.
        suspects_accuracy: Share of those whose label is the most probable one. What a weak model takes for
            suspect is its own error.
    """

    suspects: list[SuspectLabel]
    suspects_among: int
    suspects_accuracy: float


@dataclass(frozen=True)
class SharedPictures:
    """Our pictures that are exactly among theirs, and those of them that have the same label there."""

    pictures: int
    same_label: int


@dataclass(frozen=True)
class ExactDuplicates:
    """How many pictures are there more than once, byte for byte.

    Attributes:
        surplus: By part: those that would go if one of each content were kept.
        shared: By two parts.
    """

    surplus: dict[str, int]
    shared: dict[Parts, SharedPictures]

    def counts(self) -> dict[str, int]:
        """Return all figures by their names in JSON."""
        found = {f"duplicates_in_{part}": count for part, count in self.surplus.items()}
        for (ours, theirs), shared in self.shared.items():
            found[f"{ours}_in_{theirs}"] = shared.pictures
            found[f"{ours}_in_{theirs}_same_label"] = shared.same_label
        return found


@dataclass(frozen=True)
class NearDuplicates:
    """Numbers of pictures that have a near duplicate.

    Exact copies are not counted.

    Attributes:
        threshold: Smallest correlation of two pictures that are called near duplicates.
        pictures: For two parts, the number of the first part's pictures with a near duplicate in the second
            part. If both parts are the same: the number of its pictures with a near duplicate in it.
    """

    threshold: float
    pictures: dict[Parts, int]

    def counts(self) -> dict[str, int]:
        """Return all figures but the threshold by their names in JSON."""
        return {
            f"near_duplicates_in_{ours}" if ours == theirs else f"near_{ours}_in_{theirs}": count
            for (ours, theirs), count in self.pictures.items()
        }


@dataclass(frozen=True)
class AuditReport:
    """All that was found wrong with a data set.

    Attributes:
        dataset: Its name.
        pictures: By part, as `fingerprint` and `class_balance`.
        near: None where near duplicates were not looked for.
        pairs: Of equal and of nearly equal pictures.
        suspected: None where no runs were asked.
    """

    dataset: str
    pictures: dict[str, int]
    fingerprint: dict[str, str]
    class_balance: dict[str, ClassBalance]
    exact: ExactDuplicates
    near: NearDuplicates | None
    pairs: list[DuplicatePair]
    suspected: SuspectLabels | None

    def to_json(self) -> dict[str, Any]:
        """Return the content of `audit.json`.

        The counts of duplicates are keys of the top level.
        """
        near = {"near_threshold": self.near.threshold, **self.near.counts()} if self.near else {}
        return {
            "dataset": self.dataset,
            "pictures": self.pictures,
            "fingerprint": self.fingerprint,
            "class_balance": {part: balance.to_json() for part, balance in self.class_balance.items()},
            **self.exact.counts(),
            **near,
            "pairs": [pair.to_json() for pair in self.pairs],
            **(self.suspected.to_json() if self.suspected else {}),
        }
