"""VGG, ShuffleNetV2 and MobileNetV2 for CIFAR, as the distillation literature adapts them to 32 px.

Architectures and parameter counts are those of two repositories, which agree with each other: RepDistiller
(of CRD, Tian et al. 2020) and mdistiller (of DKD, Zhao et al. 2022). Pictures may be larger. The prefix
`cifar_` distinguishes these networks from timm's networks for 224 px.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cifarlab.core.registries import BACKBONES
from cifarlab.models.blocks.staged import Staged, conv_norm, with_he_weights


class PoolLarge(nn.Module):
    """2x2 max pooling of maps with a side length of at least 8 pixels.

    Smaller maps pass unchanged.
    """

    def forward(self, maps: Tensor) -> Tensor:
        """Return feature maps (B, C, H, W)."""
        return F.max_pool2d(maps, 2) if min(maps.shape[-2:]) >= 8 else maps


def _vgg(image_size: int, widths: Sequence[Sequence[int]]) -> Staged:
    pools = (nn.Identity(), nn.MaxPool2d(2), nn.MaxPool2d(2), nn.MaxPool2d(2), PoolLarge())
    stages, inputs = [], 3
    for pool, stage in zip(pools, widths, strict=True):
        convs = []
        for outputs in stage:
            # Batch norm cancels the bias. It is kept because the published parameter counts include it.
            convs.append(conv_norm(inputs, outputs, 3, bias=True))
            inputs = outputs
        stages.append(nn.Sequential(pool, *convs))
    return with_he_weights(
        Staged(nn.Identity(), stages, num_features=inputs, image_size=image_size, min_image_size=8)
    )


@BACKBONES.register
def cifar_vgg8(image_size: int) -> Staged:
    """VGG-8 for CIFAR: 3,965,028 parameters with 100 classes (Simonyan and Zisserman 2015).

    It is a VGG with batch norm and one convolution in each of its five stages (CRD, Tian et al. 2020). VGG-11
    has one or two. The mean over the last map replaces VGG's last pooling and two of its three linear layers.

    The pooling before the fifth stage is left out for pictures below 64 px, so that the last map of a picture
    of 32 px has 4x4 pixels. The published code has this pooling for pictures of exactly 64 px only, not for
    larger ones.
    """
    return _vgg(image_size, ((64,), (128,), (256,), (512,), (512,)))


@BACKBONES.register
def cifar_vgg13(image_size: int) -> Staged:
    """VGG-13 for CIFAR: 9,462,180 parameters with 100 classes (Simonyan and Zisserman 2015).

    It is a VGG with batch norm and the convolutions of column B of the paper's table 1. Its poolings and the
    layers after the last stage are those of cifar_vgg8.
    """
    return _vgg(image_size, ((64, 64), (128, 128), (256, 256), (512, 512), (512, 512)))


class ShuffleUnit(nn.Module):
    """The unit of ShuffleNetV2: two branches whose output channels are interleaved (Ma et al. 2018).

    At stride 1 (figure 3 c) one half of the channels passes unchanged and the other half is convolved. At
    stride 2 (figure 3 d) both branches see all channels.
    """

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        half = outputs // 2
        self.splits = stride == 1
        self.left = nn.Sequential() if self.splits else nn.Sequential(
            conv_norm(inputs, inputs, 3, stride=stride, groups=inputs, relu=False),
            conv_norm(inputs, half, 1),
        )  # fmt: skip
        self.right = nn.Sequential(
            conv_norm(half if self.splits else inputs, half, 1),
            conv_norm(half, half, 3, stride=stride, groups=half, relu=False),
            conv_norm(half, half, 1),
        )

    def forward(self, maps: Tensor) -> Tensor:
        """Return feature maps (B, C, H, W)."""
        left, right = maps.chunk(2, 1) if self.splits else (maps, maps)
        return torch.channel_shuffle(torch.cat([self.left(left), self.right(right)], 1), 2)


@BACKBONES.register
def cifar_shufflenet_v2(image_size: int) -> Staged:
    """ShuffleNetV2 for CIFAR: 1,355,528 parameters with 100 classes (Ma et al. 2018).

    It is the network of width 1x in the paper's table 5. The stem is a 1x1 convolution of stride 1 without
    pooling, as in RepDistiller and mdistiller. Other adaptations to CIFAR use a 3x3 convolution as the stem.
    The maps of the stages have 1/2, 1/4 and 1/8 of the picture's side. Initial weights are torch's default,
    as in RepDistiller and mdistiller.
    """
    stages, inputs = [], 24
    for outputs, blocks in ((116, 4), (232, 8), (464, 4)):
        units = (ShuffleUnit(outputs, outputs, 1) for _ in range(blocks - 1))
        stages.append(nn.Sequential(ShuffleUnit(inputs, outputs, 2), *units))
        inputs = outputs
    stem, last = conv_norm(3, 24, 1), conv_norm(inputs, 1024, 1)
    return Staged(stem, stages, last=last, num_features=1024, image_size=image_size, min_image_size=8)


class InvertedResidual(nn.Module):
    """The block of MobileNetV2: 1x1 expansion, 3x3 depthwise convolution, 1x1 projection without ReLU.

    The input is added if it has the same shape as the output.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int):
        super().__init__()
        hidden = inputs * expansion
        self.adds = stride == 1 and inputs == outputs
        self.residual = nn.Sequential(
            conv_norm(inputs, hidden, 1),
            conv_norm(hidden, hidden, 3, stride=stride, groups=hidden),
            conv_norm(hidden, outputs, 1, relu=False),
        )

    def forward(self, maps: Tensor) -> Tensor:
        """Return feature maps (B, C, H, W)."""
        return maps + self.residual(maps) if self.adds else self.residual(maps)


@BACKBONES.register
def cifar_mobilenet_v2(image_size: int) -> Staged:
    """MobileNetV2 for CIFAR: 812,836 parameters with 100 classes (Sandler et al. 2018).

    It is half as wide as the original. It is the network of RepDistiller and mdistiller, which differs from
    the paper's table 2 in three further ways. The layer of 24 channels (here 12) has stride 1. ReLU is not
    bounded at 6. The first block, too, has a 1x1 convolution for expansion, although its factor is 1.

    The maps of the stages have 1/2, 1/4, 1/8 and 1/16 of the picture's side.
    """
    # The layers of each stage: expansion, channels, number of blocks, stride of the first block.
    table = (
        ((1, 8, 1, 1), (6, 12, 2, 1)),
        ((6, 16, 3, 2),),
        ((6, 32, 4, 2), (6, 48, 3, 1)),
        ((6, 80, 3, 2), (6, 160, 1, 1)),
    )
    stages, inputs = [], 16
    for layers in table:
        blocks = []
        for expansion, outputs, repeats, first in layers:
            for stride in (first, *[1] * (repeats - 1)):
                blocks.append(InvertedResidual(inputs, outputs, stride, expansion))
                inputs = outputs
        stages.append(nn.Sequential(*blocks))
    stem, last = conv_norm(3, 16, 3, stride=2), conv_norm(inputs, 1280, 1)
    return with_he_weights(
        Staged(stem, stages, last=last, num_features=1280, image_size=image_size, min_image_size=16)
    )
