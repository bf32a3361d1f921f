"""`analyze`: detailed scores of a run's model on a split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, NotRequired, TypedDict

import numpy as np
import torch
from torch import Tensor

from cifarlab.core.errors import ConfigError
from cifarlab.data.placement import left_on_host, place_split
from cifarlab.data.splits import Split, Splits
from cifarlab.engine import scoring
from cifarlab.evaluation import published
from cifarlab.evaluation.analysis import scores
from cifarlab.evaluation.analysis.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from cifarlab.evaluation.analysis.records import (
    AnalysisFile,
    Confusion,
    Error,
    PictureRow,
    Scaled,
    Unseen,
)
from cifarlab.evaluation.audit.audit import is_among
from cifarlab.evaluation.sealed import HELD_OUT_PARTS, open_split, refuse_unknown_split
from cifarlab.runs.model import Trained, load_trained
from cifarlab.training.progress import OPTIMISTIC

PICTURES_SHOWN = 24


@dataclass(frozen=True)
class Analysis:
    """An analysis and the pictures that were analyzed.

    Attributes:
        report: The scores.
        pictures: The split that was scored.
    """

    report: AnalysisFile
    pictures: Split


def analyze(
    run: Path | str,
    *,
    split: str = "val",
    corruptions: bool = False,
    near: bool = True,
    device: str = "auto",
    root: str | None = None,
    imports: Sequence[Path | str] = (),
) -> Analysis:
    """Score a run's model on `val` or `test` in many ways.

    It is the model of the epoch that `train.select` chose. The analysis holds:

    - top-1 and top-5 accuracy
    - NLL and calibration error, before and after temperature scaling
    - accuracy by class and superclass, and the confusion matrix
    - accuracy on unaugmented training pictures, and its excess over the accuracy on `split`
    - accuracy without near duplicates of training pictures, if `near`
    - accuracy on corrupted pictures, if `corruptions`
    - the hardest pictures, whose label has the lowest probability, and the most confident errors
    - a comparison with published accuracies

    Args:
        run: The run's folder, or its checkpoint.
        split: val or test. Each use of test is recorded in the ledger (`cifarlab.runs.ledger`).
        corruptions: Also score corrupted pictures.
        near: Also search for near duplicates, and score without them.
        device: auto, cpu, cuda or cuda:1.
        root: Folder of the data set. Default: the folder that the run read it from.
        imports: Python files or modules that register the run's custom parts.

    Raises:
        ConfigError: The run cannot be loaded, its data have changed, or it has no pictures of this split.
    """
    refuse_unknown_split(split, known=HELD_OUT_PARTS)
    trained = load_trained(run, device=device, imports=imports).with_data_root(root)
    opened = open_split(run, trained, split, "analyze")
    pictures, learned = opened.pictures, opened.learned
    assert learned is not None, "`open_split` reads them unless `alone` is set"
    said = _answers(trained, pictures)
    probabilities, guesses, truth = scores.softmax(said.logits), said.guesses.numpy(), said.labels.numpy()
    held_out = _answers(trained, learned.val)[:2] if split == "test" and learned.val is not None else None
    calibrated, temperatures = scores.scaled_by_temperature(said.logits, said.labels, held_out)
    warnings = [*opened.warnings, *said.left]
    try:
        anchor = published.place_score(trained.saved.whole, said.top1, split)
    except ConfigError as error:  # A part of the configuration is missing. The model was scored without it.
        anchor = None
        warnings.append(f"not placed among published figures: {error}")
    further: _Further = {}
    if near:
        further["without_near_duplicates"] = _without(is_among(pictures, learned.train), guesses == truth)
    if corruptions:
        further["corruptions"] = _corrupted(trained, pictures)
    hardest, confident_errors = _worth_a_look(pictures, probabilities, guesses, truth, learned.classes)
    report = AnalysisFile(
        run=str(run),
        epoch=trained.epoch,
        split=split,
        pictures=len(truth),
        remark=OPTIMISTIC if split == trained.saved.select == "test" else "",
        warnings=warnings,
        top1=said.top1,
        top5=said.top5,
        **scores.losses(probabilities, truth),
        reliability=scores.reliability(probabilities, guesses, truth),
        temperatures=temperatures,
        after_temperature=Scaled(
            **scores.losses(calibrated, truth), reliability=scores.reliability(calibrated, guesses, truth)
        ),
        **_by_class(guesses, truth, learned),
        **_gap(trained, learned.train, len(truth), said.top1),
        **further,
        hardest=hardest,
        confident_errors=confident_errors,
        anchor=anchor,
    )
    return Analysis(report, pictures)


class _Further(TypedDict, total=False):
    """The scores of an analysis that the arguments `near` and `corruptions` request."""

    without_near_duplicates: Unseen
    corruptions: dict[str, list[float] | float]


class SplitAnswers(NamedTuple):
    """A model's outputs for a split, on the CPU.

    Attributes:
        logits: Logits (N, C).
        labels: Labels (N,).
        guesses: Most probable classes (N,).
        top1: Accuracy, computed as by `evaluate`.
        top5: Top-5 accuracy, computed as by `evaluate`.
        left: A warning if the pictures did not fit into the device's memory. Empty if they did.
    """

    logits: Tensor
    labels: Tensor
    guesses: Tensor
    top1: float
    top5: float
    left: list[str]


def _answers(trained: Trained, split: Split) -> SplitAnswers:
    here, size = place_split(split, trained.precision.device), trained.saved.image_size
    logits, labels, _ = scoring.collect_outputs(trained.model, here, trained.precision, size)
    found, guesses = scoring.scores(logits, labels), scoring.ranked(logits)[:, 0]
    on_cpu = logits.cpu(), labels.cpu(), guesses.cpu()
    return SplitAnswers(*on_cpu, found["top1"], found["top5"], left_on_host(here))


class _ByClass(TypedDict):
    classes: list[str]
    by_class: dict[str, float | None]
    most_confused: list[Error]
    confusion: list[list[int]]
    superclass_top1: NotRequired[float]
    by_superclass: NotRequired[dict[str, float]]
    superclass_confusion: NotRequired[Confusion]


def _by_class(guesses: np.ndarray, labels: np.ndarray, splits: Splits) -> _ByClass:
    matrix = scores.confusion(guesses, labels, len(splits.classes))
    found: _ByClass = {
        "classes": list(splits.classes),
        "by_class": scores.by_class(matrix, splits.classes),
        "most_confused": scores.most_confused(matrix, splits.classes),
        "confusion": matrix.tolist(),
    }
    if splits.superclasses:
        coarse = scores.gathered(matrix, splits.superclass_of)
        names = splits.superclasses[: len(coarse)]
        groups = np.array(splits.superclass_of)[labels]
        within = {name: float((guesses == labels)[groups == i].mean())
                  for i, name in enumerate(names) if (groups == i).any()}  # fmt: skip
        found["superclass_top1"] = float(np.trace(coarse) / coarse.sum())
        found["by_superclass"] = dict(sorted(within.items(), key=lambda item: item[1]))
        found["superclass_confusion"] = Confusion(names=list(names), counts=coarse.tolist())
    return found


class _Gap(TypedDict):
    train_top1: float
    gap: float


def _gap(trained: Trained, train: Split, count: int, top1: float) -> _Gap:
    """Return the accuracy on `count` training pictures, and its excess over `top1`."""
    train_top1 = _answers(trained, train.first(count)).top1
    return {"train_top1": train_top1, "gap": train_top1 - top1}


def _without(known: np.ndarray, right: np.ndarray) -> Unseen:
    """Return the accuracy on pictures without and with near duplicates.

    `known` (N,) marks the pictures that have an exact copy or near duplicate among the training pictures.
    `right` (N,) marks the correct predictions.
    """
    return Unseen(
        near_duplicates=int(known.sum()),
        top1=float(right[~known].mean()) if not known.all() else None,
        top1_on_near_duplicates=float(right[known].mean()) if known.any() else None,
    )


def _corrupted(trained: Trained, split: Split) -> dict[str, list[float] | float]:
    """Return top-1 by kind of corruption, as a list over severities.

    The key `mean` holds the mean over all kinds and severities.
    """
    images, rows = np.asarray(split.images)[split.rows], torch.arange(len(split))
    found: dict[str, list[float]] = {}
    for kind in CORRUPTIONS:
        found[kind] = []
        for severity in range(1, 1 + len(SEVERITIES[kind])):
            worse = torch.from_numpy(corrupt(images, split.ids.numpy(), kind, severity))
            found[kind].append(_answers(trained, Split(worse, rows, split.labels, split.ids)).top1)
    return {**found, "mean": float(np.mean(list(found.values())))}


def _worth_a_look(
    split: Split, probabilities: np.ndarray, guesses: np.ndarray, labels: np.ndarray, classes: tuple[str, ...]
) -> tuple[list[PictureRow], list[PictureRow]]:
    hardest, confident = scores.rows_worth_a_look(probabilities, guesses, labels, PICTURES_SHOWN)

    def described(rows: np.ndarray) -> list[PictureRow]:
        return [
            PictureRow(
                position=int(row),
                id=int(split.ids[row]),
                label=classes[labels[row]],
                guess=classes[guess],
                probability=float(probabilities[row, guess]),
                probability_of_label=float(probabilities[row, labels[row]]),
            )
            for row, guess in zip(rows.tolist(), guesses[rows].tolist(), strict=True)
        ]

    return described(hardest), described(confident)
