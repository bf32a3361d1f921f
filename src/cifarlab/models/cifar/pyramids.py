"""PyramidNet for CIFAR, whose width grows with each block, and ShakeDrop, its regularisation."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from cifarlab.core.registries import BACKBONES
from cifarlab.models.blocks.staged import Staged, conv_norm, with_he_weights

Disturbance = Annotated[
    float,
    Field(
        ge=0,
        lt=1,
        description=(
            "Share of pictures for which ShakeDrop multiplies the last block's branch by a random number "
            "from -1 to 1, in training. The share grows linearly from the first block to the last. 0: none. "
            "Yamada et al. (2019) use 0.5."
        ),
    ),
]


class ShakeDrop(nn.Module):
    """Random scaling of a residual branch in training (Yamada et al. 2019).

    In training, each picture's branch is disturbed with probability `disturbed`. A disturbed branch is
    multiplied by alpha, uniform in [-1, 1], and its gradient by another number, beta, uniform in [0, 1]. In
    evaluation the branch is multiplied by the expected factor, 1 - disturbed, because the mean of alpha is 0.
    """

    def __init__(self, disturbed: float):
        super().__init__()
        self.disturbed = disturbed

    def forward(self, maps: Tensor) -> Tensor:
        """Return feature maps (B, C, H, W)."""
        if not self.training:
            return (1 - self.disturbed) * maps
        if self.disturbed == 0:
            return maps
        draws = torch.rand(3, len(maps), 1, 1, 1, device=maps.device)
        intact = draws[0] >= self.disturbed
        forward = torch.where(intact, 1, 2 * draws[1] - 1).to(maps.dtype)
        backward = torch.where(intact, 1, draws[2]).to(maps.dtype)
        return backward * maps + ((forward - backward) * maps).detach()


class PyramidBlock(nn.Module):
    """Two 3x3 convolutions and three batch norms, with a parameter-free shortcut.

    There is one ReLU, between the convolutions. The shortcut passes the input, averaged over 2x2 pixels if
    the stride is 2. Channels that the output has beyond those of the input get zeros (Han et al. 2017, figure
    6 d).
    """

    def __init__(self, inputs: int, outputs: int, stride: int, disturbed: float):
        super().__init__()
        self.residual = nn.Sequential(
            nn.BatchNorm2d(inputs),
            conv_norm(inputs, outputs, 3, stride=stride),
            conv_norm(outputs, outputs, 3, relu=False),
            ShakeDrop(disturbed),
        )
        # ceil_mode: at an odd size the convolution's map has one pixel more than a rounded-down pooling.
        self.shortcut = nn.AvgPool2d(2, ceil_mode=True) if stride == 2 else nn.Identity()
        self.lacking = outputs - inputs

    def forward(self, maps: Tensor) -> Tensor:
        """Return feature maps (B, C, H, W)."""
        return self.residual(maps) + F.pad(self.shortcut(maps), (0, 0, 0, 0, 0, self.lacking))


def _pyramidnet(image_size: int, alpha: int, shake_drop: float) -> Staged:
    per_stage = 18
    count = 3 * per_stage
    widths = [round(16 + alpha * block / count) for block in range(count + 1)]
    blocks = [
        PyramidBlock(
            widths[index],
            widths[index + 1],
            stride=2 if index in (per_stage, 2 * per_stage) else 1,
            disturbed=shake_drop * (index + 1) / count,
        )
        for index in range(count)
    ]
    stages = [nn.Sequential(*blocks[first : first + per_stage]) for first in range(0, count, per_stage)]
    stem = conv_norm(3, 16, 3, relu=False)
    last = nn.Sequential(nn.BatchNorm2d(widths[-1]), nn.ReLU(inplace=True))
    network = Staged(
        stem, stages, last=last, num_features=widths[-1], image_size=image_size, min_image_size=4
    )
    # As in a wide ResNet, the output of a stage is a sum. The first block of the next stage, or `last`,
    # normalises it.
    network.stage_names = ("stages.0", "stages.1", "last")
    return with_he_weights(network)


@BACKBONES.register
def pyramidnet110_a84(image_size: int, *, shake_drop: Disturbance = 0.0) -> Staged:
    """PyramidNet-110, alpha 84: 3,913,536 parameters with 100 classes (Han et al. 2017).

    The stem has 16 channels. The number of channels grows linearly over the 54 blocks, to 16 + alpha = 100.

    Args:
        shake_drop: Share of pictures for which ShakeDrop multiplies the last block's branch by a random
            number from -1 to 1, in training. The share grows linearly from the first block to the last. 0:
            none. Yamada et al. (2019) use 0.5.
    """
    return _pyramidnet(image_size, 84, shake_drop)


@BACKBONES.register
def pyramidnet110_a270(image_size: int, *, shake_drop: Disturbance = 0.0) -> Staged:
    """PyramidNet-110, alpha 270: 28,511,307 parameters with 100 classes (Han et al. 2017).

    It is pyramidnet110_a84 with more channels: they grow from 16 to 16 + alpha = 286.

    Args:
        shake_drop: Share of pictures for which ShakeDrop multiplies the last block's branch by a random
            number from -1 to 1, in training. The share grows linearly from the first block to the last. 0:
            none. Yamada et al. (2019) use 0.5.
    """
    return _pyramidnet(image_size, 270, shake_drop)
