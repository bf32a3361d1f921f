"""Pictures that are there more than once: byte for byte, or nearly."""

from __future__ import annotations

import itertools

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# What is compared is detail: luminance at SIDE pixels a side less its mean over BLUR x BLUR. Colour and broad
# light are left out, or every horizon would be like every other.
SIDE, BLUR = 32, 7
# A descriptor is the luminance in COARSE x COARSE cells, less a local mean too: a shift by a pixel changes
# it little. A shift by two is found where the picture is smooth.
COARSE, COARSE_BLUR = 8, 5
# Correlation of two descriptors from which on pixels are compared.
CANDIDATE = 0.85
# Correlation of detail, at the best of two flips and shifts of up to SHIFT pixels, from which on two pictures
# are near duplicates. Looked at on CIFAR-100: above it a pair is one photograph twice; from 0.8 to 0.9 mostly
# so, or two of one series (bottles, cans).
NEAR, SHIFT = 0.9, 2
NEIGHBOURS_COMPARED = 5
ROWS, PAIRS = 1000, 500


def surplus(digests: np.ndarray) -> int:
    """How many pictures would go if one of each content were kept."""
    return len(digests) - len(np.unique(digests))


def exact_pairs(digests: np.ndarray) -> np.ndarray:
    """(P, 2) int64: the first picture of each content that is there more than once, and each other one."""
    _, first, group = np.unique(digests, return_index=True, return_inverse=True)
    others = np.flatnonzero(first[group] != np.arange(len(digests)))
    return np.stack([first[group[others]], others], axis=1)


def exact_pairs_across(digests: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return all pairs of equal digests, as indices (P, 2) int64.

    The first index is into `digests`, the second into `others`.
    """
    found: dict[bytes, list[int]] = {}
    for j in np.flatnonzero(np.isin(others, digests)).tolist():
        found.setdefault(others[j].tobytes(), []).append(j)
    pairs = [(i, j) for i, digest in enumerate(digests) for j in found.get(digest.tobytes(), ())]
    return np.array(pairs, dtype=np.int64).reshape(-1, 2)


def details(images: np.ndarray) -> Tensor:
    """(N, 3, H, W) uint8 to (N, 1, SIDE, SIDE) float32: what `near_pairs` compares."""
    return torch.cat([_without_mean(_luminance(images[start : start + ROWS], SIDE), BLUR)
                      for start in range(0, len(images), ROWS)])  # fmt: skip


def descriptors(images: np.ndarray) -> Tensor:
    """(N, 3, H, W) uint8 to (N, 2, D) float32 of length 1: what a flip leaves, what it negates."""
    found = []
    for start in range(0, len(images), ROWS):
        cells = _without_mean(_luminance(images[start : start + ROWS], COARSE), COARSE_BLUR)
        cells = cells - cells.mean((1, 2, 3), keepdim=True)
        mirrored, half = cells.flip(-1), COARSE // 2
        both = torch.stack([(cells + mirrored)[..., :half], (cells - mirrored)[..., :half]], 1).flatten(2)
        found.append(both / both.square().sum((1, 2), keepdim=True).sqrt().clamp_min(1e-3))
    return torch.cat(found)


def _luminance(images: np.ndarray, side: int) -> Tensor:
    gray = torch.from_numpy(np.ascontiguousarray(images)).float().mean(1, keepdim=True)
    return gray if gray.shape[-2:] == (side, side) else F.adaptive_avg_pool2d(gray, side)


def _without_mean(values: Tensor, width: int) -> Tensor:
    return values - F.avg_pool2d(values, width, 1, width // 2, count_include_pad=False)


def alike(ours: Tensor, theirs: Tensor | None, *, least: float = CANDIDATE) -> Tensor:
    """(P, 2) int64: pairs of descriptors that correlate by `least`, flipped or not.

    theirs: (M, 2, D), or None for pairs among `ours` (N, 2, D), each named once, the lower index first.
    """
    found = []
    for start in range(0, len(ours), ROWS):
        rows = ours[start : start + ROWS]
        columns = ours[start:] if theirs is None else theirs
        same = rows[:, 0] @ columns[:, 0].T
        same += (rows[:, 1] @ columns[:, 1].T).abs_()
        pairs = (same >= least).nonzero()
        if theirs is None:
            pairs = pairs[pairs[:, 0] < pairs[:, 1]] + start
        else:
            pairs[:, 0] += start
        found.append(pairs)
    return torch.cat(found)


def nearest_neighbours(ours: Tensor, theirs: Tensor | None, *, count: int = NEIGHBOURS_COMPARED) -> Tensor:
    """(P, 2) int64: each of `ours` (N, D), and the `count` embeddings most like it by cosine; as `alike`."""
    ours = F.normalize(ours)
    columns = ours if theirs is None else F.normalize(theirs)
    count = min(count + (theirs is None), len(columns))
    found = []
    for start in range(0, len(ours), ROWS):
        best = (ours[start : start + ROWS] @ columns.T).topk(count).indices
        rows = torch.arange(start, start + len(best))[:, None].expand_as(best)
        found.append(torch.stack([rows, best], -1).flatten(0, 1))
    pairs = torch.cat(found)
    if theirs is None:
        pairs = pairs[pairs[:, 0] != pairs[:, 1]].sort(1).values
    return pairs.unique(dim=0)


def correlations(ours: Tensor, theirs: Tensor) -> Tensor:
    """(P,): of (P, 1, S, S) details, where the two overlap, at the best of two flips and all small shifts."""
    best = torch.full((len(ours),), -1.0)
    moves = range(-SHIFT, SHIFT + 1)
    for flipped, down, right in itertools.product((False, True), moves, moves):
        other = theirs.flip(-1) if flipped else theirs
        a = ours[..., _overlap(down), _overlap(right)].flatten(1)
        b = other[..., _overlap(-down), _overlap(-right)].flatten(1)
        a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
        lengths = a.square().sum(1) * b.square().sum(1)
        best = torch.maximum(best, (a * b).sum(1) / lengths.sqrt().clamp_min(1e-3))
    return best


def _overlap(shift: int) -> slice:
    return slice(max(shift, 0), SIDE + min(shift, 0))


def near_pairs(ours: Tensor, theirs: Tensor | None, candidates: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The candidates (P, 2) that pixels confirm: (Q, 2) int64, and their correlation (Q,), most alike first.

    ours, theirs: `details`; theirs None for pairs among `ours`.
    """
    others = ours if theirs is None else theirs
    found = [correlations(ours[pairs[:, 0]], others[pairs[:, 1]]) for pairs in candidates.split(PAIRS)]
    values = torch.cat(found)
    keep = (values >= NEAR).nonzero()[:, 0]
    keep = keep[values[keep].argsort(descending=True, stable=True)]
    return candidates[keep].numpy(), values[keep].numpy()
