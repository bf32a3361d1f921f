"""Labels that a model contradicts with confidence."""

from __future__ import annotations

import numpy as np


def confident_labels(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(N,) int64: the label that each picture confidently has, -1 where it confidently has none.

    probabilities: (N, C), of models that were not trained on the picture. labels: (N,), as given. A picture
    confidently has label j where its probability of j reaches the mean of those that are labelled j; of
    several such labels the most probable (confident learning, Northcutt, Jiang and Chuang 2021, equations 1
    and 2).
    """
    counts = np.bincount(labels, minlength=probabilities.shape[1])
    own = probabilities[np.arange(len(labels)), labels]
    sums = np.bincount(labels, weights=own, minlength=probabilities.shape[1])
    # Nothing is confidently of a label that no picture has.
    thresholds = np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)
    reached = np.where(probabilities >= thresholds, probabilities, -1.0)
    return np.where(reached.max(1) >= 0, reached.argmax(1), -1)


def suspects(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pictures that confidently have another label than the one given: rows (S,), and those labels (S,).

    They are off the diagonal of the confident joint; ranked by how much more probable the other label is.
    """
    found = confident_labels(probabilities, labels)
    rows = np.flatnonzero((found >= 0) & (found != labels))
    margins = probabilities[rows, found[rows]] - probabilities[rows, labels[rows]]
    rows = rows[np.argsort(-margins, kind="stable")]
    return rows, found[rows]
