"""Scores from probabilities and labels: loss, calibration, confusion."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor

from cifarlab.engine.calibration import best_temperature, expected_calibration_error
from cifarlab.evaluation.analysis.records import Bin, Error

CALIBRATION_BINS = 15


class Losses(TypedDict):
    """Mean negative log-likelihood, in nats, and expected calibration error."""

    nll: float
    ece: float


def losses(probabilities: np.ndarray, labels: np.ndarray) -> Losses:
    """Return NLL and calibration error of probabilities (N, C)."""
    own = probabilities[np.arange(len(labels)), labels]
    return {
        "nll": float(-np.log(np.maximum(own, np.finfo(np.float64).tiny)).mean()),
        "ece": expected_calibration_error(
            _logits(probabilities), torch.from_numpy(labels), bins=CALIBRATION_BINS
        ),
    }


def reliability(
    probabilities: np.ndarray, guesses: np.ndarray, labels: np.ndarray, *, bins: int = CALIBRATION_BINS
) -> list[Bin]:
    """Return the non-empty bins of a reliability diagram.

    Args:
        probabilities: Probabilities (N, C).
        guesses: Predicted classes (N,).
        labels: Labels (N,).
        bins: Number of bins of equal width that divide confidences from 0 to 1.
    """
    confidence = probabilities.max(1)
    right = guesses == labels
    bin_of = np.minimum((confidence * bins).astype(int), bins - 1)  # As in `expected_calibration_error`.
    return [
        Bin(
            count=int((bin_of == b).sum()),
            confidence=float(confidence[bin_of == b].mean()),
            accuracy=float(right[bin_of == b].mean()),
        )
        for b in np.unique(bin_of)
    ]


def scaled_by_temperature(
    logits: Tensor, labels: Tensor, held_out: tuple[Tensor, Tensor] | None
) -> tuple[np.ndarray, list[float]]:
    """Return the probabilities after temperature scaling (Guo et al. 2017).

    Args:
        logits: Logits (N, C).
        labels: Labels (N,).
        held_out: Logits and labels that the temperature is fitted to. None: each half of the pictures is
            scaled by the temperature fitted to the other half. So a picture's label does not influence the
            picture's own probabilities.

    Returns:
        Probabilities (N, C), and a list of the temperatures: one if `held_out` is given, else one for each
        half.
    """
    if held_out is not None:
        temperature = best_temperature(*held_out)
        return softmax(logits / temperature), [temperature]
    # The pictures of a split are ordered by a hash, so every second picture is a random half.
    halves = [slice(0, None, 2), slice(1, None, 2)]
    temperatures = [best_temperature(logits[half], labels[half]) for half in reversed(halves)]
    scaled = logits.clone()
    for half, temperature in zip(halves, temperatures, strict=True):
        scaled[half] /= temperature
    return softmax(scaled), temperatures


def _logits(probabilities: np.ndarray) -> Tensor:
    """Return logits (N, C) float64 whose softmax is `probabilities`."""
    return torch.from_numpy(np.maximum(probabilities, np.finfo(np.float64).tiny)).log()


def softmax(logits: Tensor) -> np.ndarray:
    """Return the probabilities (N, C) float64 of logits, on the CPU."""
    return logits.double().softmax(-1).cpu().numpy()


def confusion(guesses: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """Count pictures by true class (row) and predicted class (column): (C, C) int64."""
    return np.bincount(labels * classes + guesses, minlength=classes**2).reshape(classes, classes)


def by_class(matrix: np.ndarray, names: Sequence[str]) -> dict[str, float | None]:
    """Return each class's accuracy from a confusion matrix, worst first.

    The accuracy of a class without pictures is None. These classes come last.
    """
    counts = matrix.sum(1)
    found = {n: matrix[i, i] / counts[i] if counts[i] else None for i, n in enumerate(names)}
    return dict(sorted(found.items(), key=lambda item: (item[1] is None, item[1])))


def most_confused(matrix: np.ndarray, names: Sequence[str], *, count: int = 30) -> list[Error]:
    """Return the most frequent errors, at most `count`, the most frequent first."""
    wrong = matrix * (1 - np.eye(len(matrix), dtype=matrix.dtype))
    order = np.argsort(-wrong.ravel(), kind="stable")[:count]
    pairs = [(int(i // len(names)), int(i % len(names))) for i in order if wrong.ravel()[i]]
    return [Error(label=names[i], guess=names[j], count=int(wrong[i, j])) for i, j in pairs]


def gathered(matrix: np.ndarray, superclass_of: Sequence[int]) -> np.ndarray:
    """Sum a confusion matrix of classes to one of superclasses.

    Args:
        matrix: Confusion matrix of the classes (C, C).
        superclass_of: Index of each class's superclass.

    Returns:
        Confusion matrix of the superclasses (S, S).
    """
    member = torch.nn.functional.one_hot(torch.tensor(superclass_of)).numpy()
    return member.T @ matrix @ member


def rows_worth_a_look(
    probabilities: np.ndarray, guesses: np.ndarray, labels: np.ndarray, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Find the hardest pictures and the most confident errors.

    Args:
        probabilities: Probabilities (N, C).
        guesses: Predicted classes (N,).
        labels: Labels (N,).
        count: Maximum number of pictures of each kind.

    Returns:
        Indices of the pictures whose label has the lowest probability, the lowest first. Indices of the wrong
        predictions with the highest probability, the highest first.
    """
    own = probabilities[np.arange(len(labels)), labels]
    hardest = np.argsort(own, kind="stable")[:count]
    wrong = np.flatnonzero(guesses != labels)
    confident = wrong[np.argsort(-probabilities[wrong].max(1), kind="stable")[:count]]
    return hardest, confident
