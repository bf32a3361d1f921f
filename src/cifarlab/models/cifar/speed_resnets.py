"""A residual network for training in minutes, with the design of the CIFAR speedruns.

Sources: Page (2018, "How to train your ResNet"); Jordan (2024, airbench, arXiv:2404.00498); and, for the lean
layout, the submissions to AIDDA's CIFAR-100 speedrun (2026).
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from cifarlab.core.registries import BACKBONES
from cifarlab.models.blocks.staged import Staged
from cifarlab.models.blocks.whitening import NUM_DIRECTIONS, Whitening

Width = Annotated[int, Field(ge=1)]
ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU}
STEM_CHANNELS = 2 * NUM_DIRECTIONS
# Hidden channels of the lean layout are multiples of this: other numbers would leave vector lanes empty.
LANES = 32


class ShiftNorm(nn.BatchNorm2d):
    """Batch norm that trains a shift and no scale (Page 2018).

    The scale is fixed at 1.
    """

    def __init__(self, num_features: int):
        super().__init__(num_features)
        del self.weight
        self.register_buffer("weight", torch.ones(num_features))


class ConvGroup(nn.Sequential):
    """A convolution, 2x2 max pooling, then two convolutions with a shortcut.

    It maps (B, inputs, H, W) to (B, outputs, H // 2, W // 2). The pooling comes before batch norm, which then
    sees a quarter of the pixels.

    Args:
        inputs: Channels of the input.
        outputs: Channels of the output.
        hidden: Channels between the last two convolutions.
        kernels: Side lengths of the three convolutions' kernels.
        activation: Class of the activation.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        hidden: int,
        kernels: tuple[int, int, int],
        activation: type[nn.Module],
    ):
        entry = nn.Sequential(
            *_conv(inputs, outputs, kernels[0]), nn.MaxPool2d(2), ShiftNorm(outputs), activation()
        )
        super().__init__(entry, Residual(outputs, hidden, kernels[1:], activation))


class Residual(nn.Module):
    """A residual block: two convolutions with batch norm, a shortcut, and an activation."""

    def __init__(self, channels: int, hidden: int, kernels: tuple[int, ...], activation: type[nn.Module]):
        super().__init__()
        self.residual = nn.Sequential(
            *_conv(channels, hidden, kernels[0]), ShiftNorm(hidden), activation(),
            *_conv(hidden, channels, kernels[1]), ShiftNorm(channels),
        )  # fmt: skip
        self.activation = activation()

    def forward(self, maps: Tensor) -> Tensor:
        """Return feature maps (B, C, H, W)."""
        return self.activation(self.residual(maps) + maps)


class SpeedResNet(Staged):
    """A `Staged` network that pools each channel to the sum of its maximum and its mean."""

    def fit(self, images: Tensor) -> None:
        """Set the weights of a whitening stem, if any, from training pictures.

        images: (N, 3, S, S), normalised.
        """
        for part in self.stem.modules():
            if isinstance(part, Whitening):
                part.fit(images)

    def pool(self, maps: Tensor) -> Tensor:
        """Pool (B, F, H, W) maps to (B, F): maximum plus mean."""
        return maps.amax((-2, -1)) + maps.mean((-2, -1))


@BACKBONES.register
def speed_resnet(
    image_size: int,
    *,
    widths: tuple[Width, Width, Width] = (64, 256, 512),
    layout: Literal["full", "lean"] = "lean",
    stem: Literal["whitening", "conv"] = "whitening",
    activation: Literal["relu", "gelu", "silu"] = "silu",
    dirac: bool = True,
) -> SpeedResNet:
    """A residual network for training in minutes (Page 2018).

    After the stem come three groups. Each is a convolution, max pooling, and a pair of convolutions with a
    shortcut. Batch norms train their shift but have no scale. Each channel of the last map is pooled to the
    sum of its maximum and its mean.

    The logits should be scaled down by `model.head.scale`. The network suits pictures of 16 to 48 px.

    Args:
        widths: Channels of the three groups, at 1/2, 1/4 and 1/8 of the picture's side.
        layout: Kernels of the convolutions. full: all are 3x3 (airbench, Jordan 2024). lean: about half the
            multiply-adds. Both convolutions of the first pair are 1x1. In the second pair, a 3x3 convolution
            reduces the channels to 3/4, and a 1x1 convolution restores them. In the third pair, a 3x3
            convolution reduces the channels to 2/3, and a 3x3 convolution restores them. The third group
            begins with a 2x2 convolution. Reduced numbers of channels are rounded to multiples of 32.
        stem: First layer, of 24 channels. whitening: a 2x2 convolution with fixed weights that whiten the
            patches of the training pictures. conv: a 3x3 convolution that is trained.
        activation: Activation function of the whole network.
        dirac: Whether each convolution of the groups is initialised as the identity on the channels that its
            input and output have in common (airbench). False: all its weights are random.

    Raises:
        ConfigError: If pictures have fewer than 8 px a side, or fewer than 9 with the whitening stem.
    """
    act = ACTIVATIONS[activation]
    if stem == "whitening":
        first = nn.Sequential(Whitening(), act())
    else:
        first = nn.Sequential(*_conv(3, STEM_CHANNELS, 3), ShiftNorm(STEM_CHANNELS), act())
    groups, inputs = [], STEM_CHANNELS
    for width, hidden, kernels in zip(widths, _hidden(widths, layout), _kernels(layout), strict=True):
        groups.append(ConvGroup(inputs, width, hidden, kernels, act))
        inputs = width
    if dirac:
        for part in nn.ModuleList(groups).modules():
            if isinstance(part, nn.Conv2d):
                nn.init.dirac_(part.weight.data[: part.in_channels])
    # The 2x2 convolution of the whitening stem makes the map one pixel smaller.
    least = 8 + (stem == "whitening")
    return SpeedResNet(first, groups, num_features=inputs, image_size=image_size, min_image_size=least)


def _conv(inputs: int, outputs: int, kernel: int) -> list[nn.Module]:
    """Return a convolution that keeps the map's size.

    An even kernel is padded on the left and top only, so that its last pixel lies on the output's position.
    """
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2 if kernel % 2 else 0, bias=False)
    return [conv] if kernel % 2 else [nn.ZeroPad2d((kernel // 2, 0, kernel // 2, 0)), conv]


def _hidden(widths: tuple[int, int, int], layout: str) -> tuple[int, int, int]:
    """Return the channels between the two convolutions of each pair."""
    if layout == "full":
        return widths
    shares = (1.0, 3 / 4, 2 / 3)
    first, second, third = (
        max(1, min(width, round(width * share / LANES) * LANES))
        for width, share in zip(widths, shares, strict=True)
    )
    return first, second, third


def _kernels(layout: str) -> tuple[tuple[int, int, int], ...]:
    """Return the kernel sides of each group: first convolution, then the pair."""
    if layout == "full":
        return ((3, 3, 3), (3, 3, 3), (3, 3, 3))
    return ((3, 1, 1), (3, 3, 1), (2, 3, 3))
