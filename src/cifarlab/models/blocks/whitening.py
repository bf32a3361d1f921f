"""A first convolution that whitens small patches of the pictures that a run is trained on."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Patches of 2x2 pixels in 3 channels have 12 numbers, and as many principal directions.
PATCH_SIDE = 2
NUM_DIRECTIONS = 3 * PATCH_SIDE**2
# Added to each variance, of pictures of variance 1: the least directions are mostly the file format's noise.
EPSILON = 5e-4
# Pictures in memory as patches at once.
CHUNK = 500


class Whitening(nn.Conv2d):
    """(B, 3, H, W) to (B, 24, H - 1, W - 1): a 2x2 convolution whose weights are no parameters.

    They are the eigenvectors of the covariance of training patches, each over the root of its eigenvalue, and
    the negatives of them all, so that an activation after it loses nothing (Page 2018, "How to train your
    ResNet"; airbench, arXiv:2404.00498). The bias is trained. Before `fit` the directions are the pixels.
    """

    weight: Tensor  # pyright: ignore[reportIncompatibleVariableOverride]
    bias: nn.Parameter  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(self):
        super().__init__(3, 2 * NUM_DIRECTIONS, PATCH_SIDE)
        del self.weight
        self.register_buffer("weight", torch.empty(2 * NUM_DIRECTIONS, 3, PATCH_SIDE, PATCH_SIDE))
        self._set(torch.eye(NUM_DIRECTIONS), torch.zeros(NUM_DIRECTIONS))

    @torch.no_grad()
    def fit(self, images: Tensor) -> None:
        """Whiten the patches of (N, 3, S, S) pictures: their mean comes out as 0, their covariance as 1."""
        mean, covariance = patch_statistics(images)
        variances, vectors = torch.linalg.eigh(covariance)
        # A direction's sign is LAPACK's whim. Both are used, but which of the two is first should not change.
        vectors *= vectors.gather(0, vectors.abs().argmax(0, keepdim=True)).sign()
        directions = vectors.t() / (variances[:, None] + EPSILON).sqrt()
        self._set(directions.float(), (-directions @ mean).float())

    @torch.no_grad()
    def _set(self, directions: Tensor, bias: Tensor) -> None:
        self.weight.copy_(torch.cat([directions, -directions]).view_as(self.weight))
        self.bias.copy_(torch.cat([bias, -bias]))


def patch_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (12,) and covariance (12, 12) of the 2x2 patches of (N, 3, S, S) pictures, float64."""
    total = images.new_zeros(NUM_DIRECTIONS, dtype=torch.float64)
    products = images.new_zeros(NUM_DIRECTIONS, NUM_DIRECTIONS, dtype=torch.float64)
    count = 0
    for chunk in images.split(CHUNK):
        patches = F.unfold(chunk.double(), PATCH_SIDE).transpose(0, 1).flatten(1)
        total += patches.sum(1)
        products += patches @ patches.t()
        count += patches.shape[1]
    mean = total / count
    return mean, products / count - torch.outer(mean, mean)
