"""The selection of samples, stratified by label."""

from __future__ import annotations

import numpy as np
import torch

from cifarlab.core.random import hash_each


def choose(labels: np.ndarray, groups: np.ndarray, ids: np.ndarray, count: int, key: int) -> np.ndarray:
    """Select `count` of N samples, stratified by label, keeping groups together.

    A group is taken as a whole or not at all. Groups are tried in the order of a hash of ids and key. Fewer
    than `count` samples are taken if the remaining groups are too large.

    Args:
        labels: (N,) int64.
        groups: (N,). Samples with equal values form a group.
        ids: (N,) int64, the ids to be hashed.
        count: Number of samples to take.
        key: A 64-bit seed.

    Returns:
        (N,) bool, True for each selected sample.
    """
    rank = hash_each(key, torch.from_numpy(ids)).numpy()
    quota = _quota(labels, count)
    group_of = np.unique(groups, return_inverse=True)[1]
    members: dict[int, list[int]] = {}
    for position in np.argsort(rank, kind="stable").tolist():
        members.setdefault(int(group_of[position]), []).append(position)
    taken = np.zeros(len(ids), dtype=bool)
    for positions in members.values():
        wanted = np.bincount(labels[positions], minlength=len(quota))
        if (wanted <= quota).all():
            quota -= wanted
            taken[positions] = True
    return taken


def _quota(labels: np.ndarray, count: int) -> np.ndarray:
    """Return how many of `count` samples to take from each label.

    They are proportional to the frequencies of the labels, rounded by the largest remainder method. The
    result is (largest label + 1,) int64.
    """
    exact = np.bincount(labels) * (count / len(labels))
    quota = np.floor(exact).astype(np.int64)
    short = count - int(quota.sum())
    quota[np.argsort(-(exact - quota), kind="stable")[:short]] += 1
    return quota
