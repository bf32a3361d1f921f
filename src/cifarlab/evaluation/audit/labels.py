"""Labels that a model confidently contradicts."""

from __future__ import annotations

import numpy as np


def confident_labels(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the confident label of each picture (N,) int64, or -1.

    Label j is confident if its probability is at least the mean probability of j over the pictures with label
    j. Of several confident labels, the most probable is returned; without any, -1. This is confident learning
    (Northcutt, Jiang and Chuang 2021, equations 1 and 2).

    Args:
        probabilities: Probabilities (N, C) of models that were not trained on the picture.
        labels: Given labels (N,).
    """
    counts = np.bincount(labels, minlength=probabilities.shape[1])
    own = probabilities[np.arange(len(labels)), labels]
    sums = np.bincount(labels, weights=own, minlength=probabilities.shape[1])
    # A label without pictures has no threshold, so no picture is a confident example of it.
    thresholds = np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)
    reached = np.where(probabilities >= thresholds, probabilities, -1.0)
    return np.where(reached.max(1) >= 0, reached.argmax(1), -1)


def suspects(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find pictures whose confident label differs from the given one.

    They are sorted by how much more probable the confident label is than the given one, the largest excess
    first.

    Args:
        probabilities: Probabilities (N, C) of models that were not trained on the picture.
        labels: Given labels (N,).

    Returns:
        Indices of the pictures (S,), and their confident labels (S,).
    """
    found = confident_labels(probabilities, labels)
    rows = np.flatnonzero((found >= 0) & (found != labels))
    margins = probabilities[rows, found[rows]] - probabilities[rows, labels[rows]]
    rows = rows[np.argsort(-margins, kind="stable")]
    return rows, found[rows]
