"""`audit`: duplicates, class imbalance and suspect labels of a data set, in one report."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cifarlab.config import DataConfig
from cifarlab.config.imports import import_named
from cifarlab.core.batch import Output
from cifarlab.core.errors import ConfigError
from cifarlab.core.files import file_digest
from cifarlab.core.registries import DATASETS
from cifarlab.data.placement import place_split
from cifarlab.data.splits import PARTS, Pictures, Split, digest_pictures, load_splits, read_data
from cifarlab.engine.scoring import outputs_of
from cifarlab.evaluation.audit.duplicates import (
    NEAR,
    alike,
    descriptors,
    details,
    exact_pairs,
    exact_pairs_across,
    near_pairs,
    nearest_neighbours,
    surplus,
)
from cifarlab.evaluation.audit.labels import suspects
from cifarlab.evaluation.audit.report import (
    AuditReport,
    ClassBalance,
    DuplicatePair,
    ExactDuplicates,
    NearDuplicates,
    Parts,
    SharedPictures,
    SuspectLabel,
    SuspectLabels,
)
from cifarlab.evaluation.sealed import moved_data_named
from cifarlab.runs.folder import recorded_run
from cifarlab.runs.ledger import record_opening
from cifarlab.runs.model import Trained, load_trained


@dataclass(frozen=True)
class Audit:
    """The result of an audit.

    Attributes:
        report: The report. It names a picture by its part and by its index in the part's `Pictures.order`.
        parts: The pictures of each part, by the part's name.
    """

    report: AuditReport
    parts: dict[str, Pictures]

    def picture(self, part: str, index: int) -> np.ndarray:
        """Return picture `index` of a part's canonical order: (H, W, 3) uint8."""
        pictures = self.parts[part]
        return np.asarray(pictures.images[pictures.order()[index]]).transpose(1, 2, 0)


def audit(data: DataConfig, *, runs: Sequence[Trained] = (), near: bool = True) -> Audit:
    """Find duplicates, class imbalance and suspect labels.

    Duplicates are searched for within and across the published parts. Only the first run's model sees test
    pictures, to compute their embeddings. This use of the test set is first recorded in the ledger
    (`cifarlab.runs.ledger`). No model sees test labels.

    Args:
        data: The data set.
        runs: Runs that were trained on this data set. The first run's embeddings help to find near
            duplicates. The predictions of all runs for pictures that they were not trained on find suspect
            labels.
        near: Also search for near duplicates, which takes a minute for 60,000 pictures.

    Raises:
        ConfigError: A run was trained on other data or on some classes only, or runs are given and none of
            them held pictures out.
    """
    with moved_data_named(*runs):
        read_parts = {part: read_data(data, part) for part in PARTS}
    parts: dict[str, Pictures] = {part: pictures for part, pictures in read_parts.items() if pictures}
    for trained in runs:
        _refuse_other(trained, parts["train"])
    exact, pairs = _exact(parts)
    # This may raise, so it comes before the test pictures are opened.
    suspected = suspect_labels(parts["train"], runs) if runs else None
    nearly, near_rows = _near(parts, runs) if near else (None, [])
    report = AuditReport(
        dataset=data.dataset.name,
        pictures={part: len(pictures.labels) for part, pictures in parts.items()},
        fingerprint={part: pictures.fingerprint() for part, pictures in parts.items()},
        class_balance={part: class_balance(pictures) for part, pictures in parts.items()},
        exact=exact,
        near=nearly,
        pairs=[*pairs, *near_rows],
        suspected=suspected,
    )
    return Audit(report, parts)


def class_balance(pictures: Pictures) -> ClassBalance:
    """Count the pictures of each class; find the smallest and largest class."""
    counts = np.bincount(pictures.labels, minlength=len(pictures.classes)).tolist()
    ranked = sorted(range(len(counts)), key=counts.__getitem__)
    return ClassBalance(
        smallest=(pictures.classes[ranked[0]], counts[ranked[0]]),
        largest=(pictures.classes[ranked[-1]], counts[ranked[-1]]),
        counts=dict(zip(pictures.classes, counts, strict=True)),
    )


def _exact(parts: dict[str, Pictures]) -> tuple[ExactDuplicates, list[DuplicatePair]]:
    digests = {part: pictures.digests[pictures.order()] for part, pictures in parts.items()}
    shared: dict[Parts, SharedPictures] = {}
    rows: list[DuplicatePair] = []
    for part in parts:
        rows += _rows(parts, (part, part), exact_pairs(digests[part]), None)
    for theirs, ours in itertools.combinations(parts, 2):
        pairs = exact_pairs_across(digests[ours], digests[theirs])
        found = _rows(parts, (ours, theirs), pairs, None)
        rows += found
        agreeing = {row.pictures[0][1] for row in found if len(set(row.labels)) == 1}
        shared[ours, theirs] = SharedPictures(len(np.unique(pairs[:, 0])), len(agreeing))
    return ExactDuplicates({part: surplus(digests[part]) for part in parts}, shared), rows


def _near(parts: dict[str, Pictures], runs: Sequence[Trained]) -> tuple[NearDuplicates, list[DuplicatePair]]:
    orders = {part: pictures.order() for part, pictures in parts.items()}
    coarse = {part: descriptors(p.images)[orders[part]] for part, p in parts.items()}
    fine = {part: details(p.images)[orders[part]] for part, p in parts.items()}
    if runs and "test" in parts:
        _record(runs[0], parts["test"])
    embedded = {part: embeddings(runs[0], whole(p)) for part, p in parts.items()} if runs else {}
    counts: dict[Parts, int] = {}
    rows: list[DuplicatePair] = []
    for theirs, ours in itertools.combinations_with_replacement(parts, 2):
        within = ours == theirs
        candidates = alike(coarse[ours], None if within else coarse[theirs])
        if embedded:
            more = nearest_neighbours(embedded[ours], None if within else embedded[theirs])
            candidates = torch.cat([candidates, more]).unique(dim=0)
        pairs, values = near_pairs(fine[ours], None if within else fine[theirs], candidates)
        digests = parts[ours].digests[orders[ours]], parts[theirs].digests[orders[theirs]]
        other = digests[0][pairs[:, 0]] != digests[1][pairs[:, 1]]
        pairs, values = pairs[other], values[other]
        counts[ours, theirs] = len(np.unique(pairs if within else pairs[:, 0]))
        rows += _rows(parts, (ours, theirs), pairs, values)
    return NearDuplicates(NEAR, counts), rows


def _record(trained: Trained, test: Pictures) -> None:
    digest = file_digest(trained.file)
    record_opening(
        recorded_run(trained.file.parent), "audit", test.fingerprint(), trained.epoch, weights_sha256=digest
    )


def _rows(
    parts: dict[str, Pictures], names: tuple[str, str], pairs: np.ndarray, values: np.ndarray | None
) -> list[DuplicatePair]:
    """Return a record for each pair of pictures of two parts.

    `names` are the two parts. `pairs` holds indices (P, 2), `values` correlations or None for equal pictures.
    """
    labels = [[parts[name].classes[label] for label in parts[name].labels[parts[name].order()[column]]]
              for name, column in zip(names, pairs.T, strict=True)]  # fmt: skip
    return [
        DuplicatePair(
            kind="exact" if values is None else "near",
            pictures=[(names[0], int(pair[0])), (names[1], int(pair[1]))],
            labels=[labels[0][i], labels[1][i]],
            correlation=1.0 if values is None else round(float(values[i]), 4),
        )
        for i, pair in enumerate(pairs)
    ]


def is_among(ours: Split, theirs: Split) -> np.ndarray:
    """Mark pictures of `ours` with an exact or near duplicate in `theirs`."""
    mine, other = (np.asarray(split.images)[split.rows] for split in (ours, theirs))
    pairs, _ = near_pairs(details(mine), details(other), alike(descriptors(mine), descriptors(other)))
    found = np.isin(digest_pictures(mine), digest_pictures(other))
    found[pairs[:, 0]] = True
    return found


def whole(pictures: Pictures, *, ids: np.ndarray | None = None) -> Split:
    """Return pictures in canonical order (`Pictures.order`) as a split.

    `ids` selects pictures by their index in this order. None: all.
    """
    rows = pictures.order()
    ids = np.arange(len(rows)) if ids is None else ids
    return Split(
        torch.from_numpy(np.asarray(pictures.images)), torch.from_numpy(rows[ids]),
        torch.from_numpy(pictures.labels[rows[ids]].astype(np.int64)), torch.from_numpy(ids),
    )  # fmt: skip


def embeddings(trained: Trained, split: Split) -> Tensor:
    """Return the embeddings (N, D) float32 of pictures, on the CPU."""
    return torch.cat([output.embedding.float().cpu() for output, _ in _outputs(trained, split)])


def _outputs(trained: Trained, split: Split) -> Iterator[tuple[Output, Tensor]]:
    device = next(trained.model.parameters()).device
    return outputs_of(trained.model, place_split(split, device), trained.precision, trained.saved.image_size)


def suspect_labels(train: Pictures, runs: Sequence[Trained]) -> SuspectLabels:
    """Find labels that the runs' models confidently contradict.

    Each model judges the training pictures that it was not trained on: those of validation, and those that
    `data.limit` left out. If several models judge a picture, their probabilities are averaged.

    Raises:
        ConfigError: No run held pictures out.
    """
    total = np.zeros((len(train.labels), len(train.classes)))
    times = np.zeros(len(train.labels), dtype=np.int64)
    for trained in runs:
        learned = load_splits(trained.saved.data, trained.saved.split_seed).train.ids.numpy()
        ids = np.setdiff1d(np.arange(len(train.labels)), learned)
        if not len(ids):
            continue
        said = [
            output.logits.float().softmax(-1).cpu() for output, _ in _outputs(trained, whole(train, ids=ids))
        ]
        total[ids] += torch.cat(said).double().numpy()
        times[ids] += 1
    asked = np.flatnonzero(times)
    if not len(asked):
        raise ConfigError(
            "suspect labels need a run that held pictures out; train one with data.val=0.1", ("data", "val")
        )
    probabilities = total[asked] / times[asked, None]
    labels = train.labels[train.order()[asked]]
    rows, others = suspects(probabilities, labels)
    found = [
        SuspectLabel(
            picture=("train", int(asked[row])),
            label=train.classes[labels[row]],
            suggested=train.classes[other],
            probability_of_label=round(float(probabilities[row, labels[row]]), 4),
            probability_of_suggested=round(float(probabilities[row, other]), 4),
        )
        for row, other in zip(rows, others, strict=True)
    ]
    accuracy = float((probabilities.argmax(1) == labels).mean())
    return SuspectLabels(suspects=found, suspects_among=len(asked), suspects_accuracy=accuracy)


def _refuse_other(trained: Trained, train: Pictures) -> None:
    if (known := trained.saved.data.classes) is not None and known < len(train.classes):
        raise ConfigError(f"{trained.file}: trained on {known} classes only; audit with a run of all classes")
    if trained.fingerprint.get("train") != train.fingerprint():
        raise ConfigError(
            f"{trained.file}: trained on another data set than the first run; audit it separately"
        )


def data_and_runs(
    what: Sequence[str],
    *,
    root: str | None = None,
    device: str = "auto",
    imports: Sequence[Path | str] = (),
) -> tuple[DataConfig, list[Trained]]:
    """Return the data set and the runs that the user named.

    Args:
        what: Name of one data set, or folders of runs.
        root: Folder of the data set. Default: its usual folder, or the folder that each run read it from.
        device: auto, cpu, cuda or cuda:1.
        imports: Python files or modules that register the runs' custom parts.

    Returns:
        The named data set and no runs; or the first run's data set and all runs.

    Raises:
        ConfigError: A name is neither a data set nor a run, or `what` holds a data set and anything else.
    """
    import_named(imports)
    if len(what) > 1 and (named := [word for word in what if word in DATASETS]):
        raise ConfigError(f"{named[0]} is a data set: name one data set alone, or folders of runs")
    if len(what) > 1 or what[0] not in DATASETS:
        if not Path(what[0]).exists():
            raise ConfigError(f"{what[0]}: no folder of a run and no data set ({', '.join(DATASETS)})")
        runs = [load_trained(path, device=device).with_data_root(root) for path in what]
        return runs[0].saved.data, runs
    return DataConfig.model_validate({"dataset": {"name": what[0]}, "root": root}), []
