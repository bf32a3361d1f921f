"""Labels that a model confidently contradicts."""

from __future__ import annotations

import numpy as np


def confident_labels(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the confident label of each picture (N,) int64, or -1.

    A picture is a confident example of label j if its probability of j is at least the mean of that
    probability over the pictures labelled j. Of several such labels, the most probable counts. This is
    confident learning (Northcutt, Jiang and Chuang 2021, equations 1 and 2).

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

    These are the off-diagonal pictures of the confident joint. They are sorted by how much more probable the
    confident label is than the given one, the largest difference first.

    Returns:
        Rows of the pictures (S,), and their confident labels (S,).
    """
    found = confident_labels(probabilities, labels)
    rows = np.flatnonzero((found >= 0) & (found != labels))
    margins = probabilities[rows, found[rows]] - probabilities[rows, labels[rows]]
    rows = rows[np.argsort(-margins, kind="stable")]
    return rows, found[rows]
