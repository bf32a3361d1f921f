"""Records of an audit: the content of `audit.json`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Strict

from cifarlab.core.records import Record

# A part, and the index of a picture in its canonical order. In JSON a pair is a list.
PictureName = Annotated[tuple[str, int], Strict(False)]
# A class, and its number of pictures.
ClassSize = Annotated[tuple[str, int], Strict(False)]
# Two parts. The first part's pictures are looked for in the second.
Parts = tuple[str, str]


class ClassBalance(Record):
    """The sizes of all classes, with the smallest and the largest."""

    smallest: ClassSize
    largest: ClassSize
    counts: dict[str, int]


class DuplicatePair(Record):
    """Two similar pictures with their labels. `correlation` is 1 for equal pictures."""

    kind: Literal["exact", "near"]
    pictures: list[PictureName]
    labels: list[str]
    correlation: float


class SuspectLabel(Record):
    """A label that a model confidently contradicts."""

    picture: PictureName
    label: str
    suggested: str
    probability_of_label: float
    probability_of_suggested: float


class SuspectLabels(Record):
    """Suspect labels among pictures that the runs were not trained on.

    Attributes:
        suspects: The suspect labels, the most suspect first.
        suspects_among: Number of examined pictures.
        suspects_accuracy: Accuracy of the model on them. The suspects of a weak model are its own errors.
    """

    suspects: list[SuspectLabel]
    suspects_among: int
    suspects_accuracy: float


@dataclass(frozen=True)
class SharedPictures:
    """The first part's pictures that have a copy in the second part.

    Attributes:
        pictures: Number of such pictures.
        same_label: Number of those whose copy has the same label.
    """

    pictures: int
    same_label: int


@dataclass(frozen=True)
class ExactDuplicates:
    """Numbers of pictures with an exact copy.

    Attributes:
        surplus: By part, the number of pictures to remove so that one of each content is left.
        shared: Numbers of pictures with a copy in another part, by both parts.
    """

    surplus: dict[str, int]
    shared: dict[Parts, SharedPictures]

    def counts(self) -> dict[str, int]:
        """Return all counts by their names in JSON."""
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
        """Return all counts, without the threshold, by their names in JSON."""
        return {
            f"near_duplicates_in_{ours}" if ours == theirs else f"near_{ours}_in_{theirs}": count
            for (ours, theirs), count in self.pictures.items()
        }


@dataclass(frozen=True)
class AuditReport:
    """All defects that an audit found in a data set.

    Attributes:
        dataset: Name of the data set.
        pictures: Number of pictures by part.
        fingerprint: Fingerprint by part.
        class_balance: Class sizes by part.
        exact: Exact duplicates.
        near: Near duplicates. None if they were not looked for.
        pairs: Pairs of equal and of similar pictures.
        suspected: Suspect labels. None if no runs were given.
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
