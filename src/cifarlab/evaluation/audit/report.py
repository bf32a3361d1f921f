"""Records of an audit: the content of `audit.json`.

A part is one of the published parts of a data set: train, val or test. The canonical order of a part's
pictures is that of `Pictures.order`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Strict

from cifarlab.core.records import Record

# A part, and the index of a picture in the part's canonical order. In JSON a pair is a list.
PictureName = Annotated[tuple[str, int], Strict(False)]
# A class, and its number of pictures.
ClassSize = Annotated[tuple[str, int], Strict(False)]
# Two parts. The first part's pictures are looked for in the second.
Parts = tuple[str, str]


class ClassBalance(Record):
    """The sizes of the classes.

    Attributes:
        smallest: Name of the smallest class, and its number of pictures.
        largest: Name of the largest class, and its number of pictures.
        counts: Number of pictures by class.
    """

    smallest: ClassSize
    largest: ClassSize
    counts: dict[str, int]


class DuplicatePair(Record):
    """Two equal or similar pictures.

    Attributes:
        kind: exact or near.
        pictures: The two pictures, each by its part and its index in the part's canonical order.
        labels: Names of their classes.
        correlation: Similarity of the pictures, as computed by `duplicates.correlations`. 1 for exact copies.
    """

    kind: Literal["exact", "near"]
    pictures: list[PictureName]
    labels: list[str]
    correlation: float


class SuspectLabel(Record):
    """A label that models confidently contradict.

    Attributes:
        picture: The picture, by its part and its index in the part's canonical order.
        label: Name of the given class.
        suggested: Name of the class that the models predict confidently.
        probability_of_label: Predicted probability of `label`.
        probability_of_suggested: Predicted probability of `suggested`.
    """

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
        suspects_accuracy: Accuracy of the models on the examined pictures, as a fraction. If it is low, most
            suspects are errors of the models, not of the labels.
    """

    suspects: list[SuspectLabel]
    suspects_among: int
    suspects_accuracy: float


@dataclass(frozen=True)
class SharedPictures:
    """Numbers of pictures of one part that have an exact copy in another part.

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
        shared: By pair of parts, the numbers of pictures of the first part that have a copy in the second.
    """

    surplus: dict[str, int]
    shared: dict[Parts, SharedPictures]

    def counts(self) -> dict[str, int]:
        """Return all counts by their keys in `audit.json`."""
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
        threshold: Minimum correlation (`DuplicatePair.correlation`) of near duplicates.
        pictures: By pair of parts, the number of pictures of the first part that have a near duplicate in the
            second. Both may be the same part.
    """

    threshold: float
    pictures: dict[Parts, int]

    def counts(self) -> dict[str, int]:
        """Return all counts, without the threshold, by their keys in `audit.json`."""
        return {
            f"near_duplicates_in_{ours}" if ours == theirs else f"near_{ours}_in_{theirs}": count
            for (ours, theirs), count in self.pictures.items()
        }


@dataclass(frozen=True)
class AuditReport:
    """All findings of an audit of a data set.

    Attributes:
        dataset: Name of the data set.
        pictures: Number of pictures by part.
        fingerprint: Digest of the pixels and labels by part.
        class_balance: Class sizes by part.
        exact: Exact duplicates.
        near: Near duplicates. None if they were not searched for.
        pairs: Pairs of exact and of near duplicates.
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
