"""`analyze`: a run's chosen model on a split, from all sides."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cifarlab import anchors
from cifarlab.analysis import scores
from cifarlab.analysis.corruptions import CORRUPTIONS, SEVERITIES, corrupt
from cifarlab.audit.audit import is_among
from cifarlab.data.splits import Split, Splits, place
from cifarlab.evaluate import collect
from cifarlab.progress import OPTIMISTIC
from cifarlab.runs import open_split
from cifarlab.trained import Trained, load_trained

SHOWN = 24


@dataclass(frozen=True)
class Analysis:
    """What was found, plain data, of which pictures."""

    report: dict[str, Any]
    pictures: Split


def analyze(
    run: Path | str,
    split: str = "val",
    *,
    corruptions: bool = False,
    near: bool = True,
    device: str = "auto",
    root: str | None = None,
) -> Analysis:
    """Score a run's chosen model on `val` or `test`.

    The report holds top-1, top-5, NLL and calibration error, before and after temperature scaling; accuracy
    by class and superclass, confusion; the gap to clean training pictures; accuracy without pictures that are
    nearly among the training pictures (near); accuracy on corrupted pictures (corruptions); pictures worth a
    look; where the accuracy stands among published ones. Opening test is written to the ledger.

    Raises ConfigError as `open_split` does.
    """
    trained = load_trained(run, device).at(root)
    opened = open_split(run, trained, split, "analyze")
    pictures, learned = opened.pictures, opened.learned
    assert learned is not None, "without it nothing is opened"
    logits, labels = _answers(trained, pictures)
    probabilities, truth = scores.softmax(logits), labels.numpy()
    held_out = _answers(trained, learned.val) if split == "test" and learned.val is not None else None
    calibrated, temperatures = scores.scaled_by_temperature(logits, labels, held_out)
    report: dict[str, Any] = {
        "run": str(run),
        "epoch": trained.epoch,
        "split": split,
        "pictures": len(truth),
        "remark": OPTIMISTIC if split == trained.config.train.select == "test" else "",
        "warnings": list(opened.warnings),
        **scores.headline(probabilities, truth),
        "reliability": scores.reliability(probabilities, truth),
        "temperatures": temperatures,
        "after_temperature": {
            **{key: scores.headline(calibrated, truth)[key] for key in ("nll", "ece")},
            "reliability": scores.reliability(calibrated, truth),
        },
        **_by_class(probabilities.argmax(1), truth, learned),
        **_gap(trained, learned.train, len(truth), float((probabilities.argmax(1) == truth).mean())),
    }
    if near:
        report["without_near_duplicates"] = _without(is_among(pictures, learned.train), probabilities, truth)
    if corruptions:
        report["corruptions"] = _corrupted(trained, pictures)
    report |= _worth_a_look(pictures, probabilities, truth, learned.classes)
    report["anchor"] = anchors.place(trained.config, report["top1"], split)
    return Analysis(report, pictures)


def _answers(trained: Trained, split: Split) -> tuple[Tensor, Tensor]:
    """Logits (N, C) and labels (N,) on the CPU."""
    here = place(split, trained.precision.device)
    logits, labels, _ = collect(trained.model, here, trained.precision, trained.config.data.image_size)
    return logits.cpu(), labels.cpu()


def _by_class(guesses: np.ndarray, labels: np.ndarray, splits: Splits) -> dict[str, Any]:
    matrix = scores.confusion(guesses, labels, len(splits.classes))
    found: dict[str, Any] = {
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
        found |= {
            "superclass_top1": float(np.trace(coarse) / coarse.sum()),
            "by_superclass": dict(sorted(within.items(), key=lambda item: item[1])),
            "superclass_confusion": {"names": list(names), "counts": coarse.tolist()},
        }
    return found


def _gap(trained: Trained, train: Split, count: int, top1: float) -> dict[str, float]:
    """Accuracy on as many clean training pictures, and how far it lies above the split's."""
    # A split lies in the order of a hash: its first pictures are a random sample.
    few = Split(train.images, train.rows[:count], train.labels[:count], train.ids[:count])
    logits, labels = _answers(trained, few)
    train_top1 = float((logits.argmax(-1) == labels).double().mean())
    return {"train_top1": train_top1, "gap": train_top1 - top1}


def _without(known: np.ndarray, probabilities: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """Accuracy without and on the pictures that are, exactly or nearly, among the training pictures."""
    right = probabilities.argmax(1) == labels
    return {
        "near_duplicates": int(known.sum()),
        "top1": float(right[~known].mean()) if not known.all() else None,
        "top1_on_near_duplicates": float(right[known].mean()) if known.any() else None,
    }


def _corrupted(trained: Trained, split: Split) -> dict[str, Any]:
    """{kind: top-1 at severities 1 to 5}, and the mean of all."""
    images, rows = np.asarray(split.images)[split.rows], torch.arange(len(split))
    found: dict[str, Any] = {}
    for kind in CORRUPTIONS:
        found[kind] = []
        for severity in range(1, 1 + len(SEVERITIES[kind])):
            worse = torch.from_numpy(corrupt(images, split.ids.numpy(), kind, severity))
            logits, labels = _answers(trained, Split(worse, rows, split.labels, split.ids))
            found[kind].append(float((logits.argmax(-1) == labels).double().mean()))
    return {**found, "mean": float(np.mean(list(found.values())))}


def _worth_a_look(
    split: Split, probabilities: np.ndarray, labels: np.ndarray, classes: tuple[str, ...]
) -> dict[str, Any]:
    hardest, confident = scores.rows_worth_a_look(probabilities, labels, SHOWN)

    def described(rows: np.ndarray) -> list[dict[str, Any]]:
        guesses = probabilities[rows].argmax(1)
        return [
            {
                "position": int(row),
                "id": int(split.ids[row]),
                "label": classes[labels[row]],
                "guess": classes[guess],
                "probability": float(probabilities[row, guess]),
                "probability_of_label": float(probabilities[row, labels[row]]),
            }
            for row, guess in zip(rows.tolist(), guesses.tolist(), strict=True)
        ]

    return {"hardest": described(hardest), "confident_errors": described(confident)}
