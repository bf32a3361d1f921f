"""ResNets and wide ResNets for CIFAR: three stages of blocks at 1, 1/2 and 1/4 of the picture's side.

Architectures and parameter counts are those of two repositories of the distillation literature, which agree
with each other: RepDistiller (of CRD, Tian et al. 2020) and mdistiller (of DKD, Zhao et al. 2022). The
repositories pool maps of 8x8 pixels and so take pictures of 32 px only. Here the mean is taken over a map of
any size.
"""

from __future__ import annotations

from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from cifarlab.core.registries import BACKBONES
from cifarlab.models.blocks.staged import Staged, conv_norm, with_he_weights

NARROW, WIDE = (16, 16, 32, 64), (32, 64, 128, 256)  # channels of the stem and the three stages
Dropout = Annotated[
    float,
    Field(
        ge=0,
        lt=1,
        description=(
            "Share of the inputs of each block's second convolution that dropout sets to 0, in training. "
            "0: none. Where the paper uses dropout on CIFAR, it uses 0.3."
        ),
    ),
]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut around them.

    If the shape changes, a 1x1 convolution projects the shortcut. This is option B of He et al. (2016). The
    repositories RepDistiller and mdistiller use it in their published results. The CIFAR networks of He et
    al. use option A, which pads with zeros and has no parameters.
    """

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        same = inputs == outputs and stride == 1
        self.residual = nn.Sequential(
            conv_norm(inputs, outputs, 3, stride=stride), conv_norm(outputs, outputs, 3, relu=False)
        )
        self.shortcut = nn.Identity() if same else conv_norm(inputs, outputs, 1, stride=stride, relu=False)

    def forward(self, maps: Tensor) -> Tensor:
        """Return feature maps (B, C, H, W)."""
        return F.relu(self.residual(maps) + self.shortcut(maps))


class PreactivationBlock(nn.Module):
    """Two 3x3 convolutions, each after batch norm and ReLU, with a shortcut.

    Dropout lies between the convolutions. If the number of channels changes, the shortcut is a 1x1
    convolution of the maps after the first batch norm and ReLU.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, dropout: float):
        super().__init__()
        self.norm = nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU(inplace=True))
        self.residual = nn.Sequential(
            *conv_norm(inputs, outputs, 3, stride=stride),
            nn.Dropout(dropout),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
        )
        projected = inputs != outputs
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if projected else None

    def forward(self, maps: Tensor) -> Tensor:
        """Return feature maps (B, C, H, W)."""
        active = self.norm(maps)
        return self.residual(active) + (maps if self.shortcut is None else self.shortcut(active))


def _resnet(image_size: int, depth: int, widths: tuple[int, ...]) -> Staged:
    stages = [
        nn.Sequential(
            BasicBlock(inputs, outputs, stride),
            *(BasicBlock(outputs, outputs, 1) for _ in range((depth - 2) // 6 - 1)),
        )
        for inputs, outputs, stride in zip(widths[:-1], widths[1:], (1, 2, 2), strict=True)
    ]
    stem = conv_norm(3, widths[0], 3)
    return with_he_weights(
        Staged(stem, stages, num_features=widths[-1], image_size=image_size, min_image_size=4)
    )


def _wide_resnet(image_size: int, depth: int, factor: int, dropout: float) -> Staged:
    widths = (16, 16 * factor, 32 * factor, 64 * factor)
    stages = [
        nn.Sequential(
            PreactivationBlock(inputs, outputs, stride, dropout),
            *(PreactivationBlock(outputs, outputs, 1, dropout) for _ in range((depth - 4) // 6 - 1)),
        )
        for inputs, outputs, stride in zip(widths[:-1], widths[1:], (1, 2, 2), strict=True)
    ]
    stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
    last = nn.Sequential(nn.BatchNorm2d(widths[-1]), nn.ReLU(inplace=True))
    network = Staged(
        stem, stages, last=last, num_features=widths[-1], image_size=image_size, min_image_size=4
    )
    # The output of a stage is not normalised. The first block of the next stage normalises it, and `last`
    # after the third.
    network.stage_names = ("stages.0", "stages.1", "last")
    return with_he_weights(network)


@BACKBONES.register
def resnet8x4(image_size: int) -> Staged:
    """ResNet-8x4 for CIFAR: 1,233,540 parameters with 100 classes (He et al. 2016).

    It is ResNet-8, 4 times as wide. The stages have 64, 128 and 256 channels; those of ResNet-20 have 16, 32
    and 64. The stem has 32 channels, which is twice, not 4 times, the stem of ResNet-20.
    """
    return _resnet(image_size, 8, WIDE)


@BACKBONES.register
def resnet20(image_size: int) -> Staged:
    """ResNet-20 for CIFAR: 278,324 parameters with 100 classes (He et al. 2016).

    The network is described in section 4.2 of the paper.
    """
    return _resnet(image_size, 20, NARROW)


@BACKBONES.register
def resnet32(image_size: int) -> Staged:
    """ResNet-32 for CIFAR: 472,756 parameters with 100 classes (He et al. 2016).

    The network is described in section 4.2 of the paper.
    """
    return _resnet(image_size, 32, NARROW)


@BACKBONES.register
def resnet32x4(image_size: int) -> Staged:
    """ResNet-32x4 for CIFAR: 7,433,860 parameters with 100 classes (He et al. 2016).

    It is ResNet-32, 4 times as wide. The stem and the stages are as wide as those of resnet8x4.
    """
    return _resnet(image_size, 32, WIDE)


@BACKBONES.register
def resnet56(image_size: int) -> Staged:
    """ResNet-56 for CIFAR: 861,620 parameters with 100 classes (He et al. 2016).

    The network is described in section 4.2 of the paper.
    """
    return _resnet(image_size, 56, NARROW)


@BACKBONES.register
def resnet110(image_size: int) -> Staged:
    """ResNet-110 for CIFAR: 1,736,564 parameters with 100 classes (He et al. 2016).

    The network is described in section 4.2 of the paper.
    """
    return _resnet(image_size, 110, NARROW)


@BACKBONES.register
def wrn_16_2(image_size: int, *, dropout: Dropout = 0.0) -> Staged:
    """Wide ResNet 16-2: 703,284 parameters with 100 classes (Zagoruyko and Komodakis 2016).

    Args:
        dropout: Share of the inputs of each block's second convolution that dropout sets to 0, in training.
            0: none. Where the paper uses dropout on CIFAR, it uses 0.3.
    """
    return _wide_resnet(image_size, 16, 2, dropout)


@BACKBONES.register
def wrn_40_1(image_size: int, *, dropout: Dropout = 0.0) -> Staged:
    """Wide ResNet 40-1: 569,780 parameters with 100 classes (Zagoruyko and Komodakis 2016).

    Args:
        dropout: Share of the inputs of each block's second convolution that dropout sets to 0, in training.
            0: none. Where the paper uses dropout on CIFAR, it uses 0.3.
    """
    return _wide_resnet(image_size, 40, 1, dropout)


@BACKBONES.register
def wrn_40_2(image_size: int, *, dropout: Dropout = 0.0) -> Staged:
    """Wide ResNet 40-2: 2,255,156 parameters with 100 classes (Zagoruyko and Komodakis 2016).

    Args:
        dropout: Share of the inputs of each block's second convolution that dropout sets to 0, in training.
            0: none. Where the paper uses dropout on CIFAR, it uses 0.3.
    """
    return _wide_resnet(image_size, 40, 2, dropout)


@BACKBONES.register
def wrn_28_10(image_size: int, *, dropout: Dropout = 0.0) -> Staged:
    """Wide ResNet 28-10: 36,536,884 parameters with 100 classes (Zagoruyko and Komodakis 2016).

    Args:
        dropout: Share of the inputs of each block's second convolution that dropout sets to 0, in training.
            0: none. Where the paper uses dropout on CIFAR, it uses 0.3.
    """
    return _wide_resnet(image_size, 28, 10, dropout)
