"""A first convolution that whitens small patches of the training pictures."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Patches of 2x2 pixels in 3 channels have 12 values, and so 12 principal directions.
PATCH_SIDE = 2
NUM_DIRECTIONS = 3 * PATCH_SIDE**2
# Added to each variance, for pictures of variance 1. The directions of least variance are mostly noise of the
# file format, which would otherwise be amplified.
EPSILON = 5e-4
# How many pictures are unfolded to patches at once, to limit memory.
CHUNK = 500


class Whitening(nn.Conv2d):
    """A 2x2 convolution with fixed weights that whiten the pictures' patches.

    It maps (B, 3, H, W) to (B, 24, H - 1, W - 1). The weights of the first 12 channels are the eigenvectors
    of the covariance of training patches, each divided by the square root of its eigenvalue. The other 12
    channels have the negatives of these weights, so that no information is lost in an activation such as ReLU
    (Page 2018, "How to train your ResNet"; airbench, arXiv:2404.00498). The weights are a buffer, not
    parameters. The bias is trained. Until `fit` is called, each of the first 12 channels is one of the
    patch's 12 values.
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
        """Set weights and bias so that the patches of `images` are whitened.

        Over all patches, the first 12 channels then have mean 0 and approximately the identity as covariance.
        images: (N, 3, S, S), normalised.
        """
        mean, covariance = patch_statistics(images)
        variances, vectors = torch.linalg.eigh(covariance)
        # LAPACK chooses the sign of an eigenvector arbitrarily. Both signs are used, but their order must be
        # reproducible.
        vectors *= vectors.gather(0, vectors.abs().argmax(0, keepdim=True)).sign()
        directions = vectors.t() / (variances[:, None] + EPSILON).sqrt()
        self._set(directions.float(), (-directions @ mean).float())

    @torch.no_grad()
    def _set(self, directions: Tensor, bias: Tensor) -> None:
        self.weight.copy_(torch.cat([directions, -directions]).view_as(self.weight))
        self.bias.copy_(torch.cat([bias, -bias]))


def patch_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and covariance of the 2x2 patches of pictures.

    images: (N, 3, S, S). The mean is (12,) and the covariance (12, 12), float64.
    """
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
