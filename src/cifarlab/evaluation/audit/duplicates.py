"""Search for duplicates and near duplicates among pictures.

Near duplicates are pairs of pictures whose details correlate. The details of a picture are its luminance at
low resolution, minus the local mean. To save time, details are compared for candidate pairs only. A candidate
pair has correlated descriptors (much smaller than details), or similar embeddings of a model.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

# Details are compared: luminance at SIDE x SIDE pixels minus its mean over BLUR x BLUR. Colour and large-area
# brightness are ignored, because otherwise all pictures with a horizon would be similar.
SIDE, BLUR = 32, 7
# A descriptor is the luminance in COARSE x COARSE cells, also minus a local mean. A shift by one pixel hardly
# changes it. A shift by two is found only in smooth pictures.
COARSE, COARSE_BLUR = 8, 5
# Minimum correlation of two descriptors for a comparison of details.
CANDIDATE = 0.85
# Minimum correlation of the details of near duplicates, at the best of two flips and of shifts of up to SHIFT
# pixels. On CIFAR-100, inspected pairs above it are one photograph. So are most pairs from 0.8 to 0.9; the
# others belong to one series (bottles, cans).
NEAR, SHIFT = 0.9, 2
NEIGHBOURS_COMPARED = 5
ROWS, PAIRS = 1000, 500


def surplus(digests: np.ndarray) -> int:
    """Count the pictures to remove so that one of each content remains.

    `digests` holds a digest of each picture's content.
    """
    return len(digests) - len(np.unique(digests))


def exact_pairs(digests: np.ndarray) -> np.ndarray:
    """Pair the first picture of each content with each of its copies.

    Args:
        digests: Digest of each picture's content (N,).

    Returns:
        Pairs of indices (P, 2) int64.
    """
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
    """Compute the details of pictures: luminance minus its local mean.

    Args:
        images: Pictures (N, 3, H, W) uint8.

    Returns:
        Details (N, 1, SIDE, SIDE) float32.
    """
    return torch.cat([_without_mean(_luminance(images[start : start + ROWS], SIDE), BLUR)
                      for start in range(0, len(images), ROWS)])  # fmt: skip


def descriptors(images: np.ndarray) -> Tensor:
    """Compute coarse descriptors of pictures, to find candidate pairs.

    A descriptor consists of two vectors. A horizontal flip of the picture leaves the first unchanged, and
    negates the second.

    Args:
        images: Pictures (N, 3, H, W) uint8.

    Returns:
        Descriptors (N, 2, D) float32. The two vectors of a picture together have length 1.
    """
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
    """Return pairs of pictures with correlated descriptors, also if one is flipped.

    Args:
        ours: Descriptors (N, 2, D).
        theirs: Descriptors (M, 2, D). None: pairs among `ours`, each once, the lower index first.
        least: Minimum correlation of the descriptors of a pair.

    Returns:
        Pairs of indices (P, 2) int64, the first into `ours`, the second into `theirs`.
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
    """Pair each embedding with its nearest neighbours, by cosine similarity.

    Args:
        ours: Embeddings (N, D).
        theirs: Embeddings (M, D). None: pairs among `ours`, each once, the lower index first.
        count: Number of neighbours of each of `ours`.

    Returns:
        Pairs of indices (P, 2) int64, the first into `ours`, the second into `theirs`.
    """
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
    """Return the correlation of the two pictures of each pair at its best alignment.

    All shifts of up to SHIFT pixels are tried, with and without a horizontal flip. Only the part where the
    shifted pictures overlap is correlated. The pictures are given by their details (see the module).

    Args:
        ours: Details (P, 1, SIDE, SIDE) of the first picture of each pair.
        theirs: Details (P, 1, SIDE, SIDE) of the second picture of each pair.

    Returns:
        The highest correlation of each pair (P,).
    """
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
    """Return the candidate pairs whose details correlate by at least NEAR.

    Args:
        ours: Details (N, 1, SIDE, SIDE).
        theirs: Details (M, 1, SIDE, SIDE) of other pictures. None: pairs among `ours`.
        candidates: Pairs of indices (P, 2), the first into `ours`, the second into `theirs`.

    Returns:
        Pairs (Q, 2) int64, and their correlations (Q,), the highest first.
    """
    others = ours if theirs is None else theirs
    found = [correlations(ours[pairs[:, 0]], others[pairs[:, 1]]) for pairs in candidates.split(PAIRS)]
    values = torch.cat(found)
    keep = (values >= NEAR).nonzero()[:, 0]
    keep = keep[values[keep].argsort(descending=True, stable=True)]
    return candidates[keep].numpy(), values[keep].numpy()
