"""A residual network for training in minutes: the shape that the speedruns of CIFAR have arrived at.

Page (2018, "How to train your ResNet"), Jordan (2024, airbench, arXiv:2404.00498), and the submissions to
AIDDA's CIFAR-100 speedrun (2026), from where the lean layout is.
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
# Hidden channels of the lean layout come in multiples of this: fewer would leave vector lanes empty.
LANES = 32


class ShiftNorm(nn.BatchNorm2d):
    """Batch norm that trains its shift and not its scale, which is 1 (Page 2018)."""

    def __init__(self, num_features: int):
        super().__init__(num_features)
        del self.weight
        self.register_buffer("weight", torch.ones(num_features))


class ConvGroup(nn.Sequential):
    """A convolution, 2x2 max pooling, then two convolutions beside a shortcut: (B, I, H, W) to half the side.

    Pooling after the convolution, not a stride, and before batch norm, which then sees a quarter of the map.
    kernels: the sides of the three convolutions. hidden: channels between the last two.
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
    """Two convolutions with batch norm, added to what they see, and an activation."""

    def __init__(self, channels: int, hidden: int, kernels: tuple[int, ...], activation: type[nn.Module]):
        super().__init__()
        self.residual = nn.Sequential(
            *_conv(channels, hidden, kernels[0]), ShiftNorm(hidden), activation(),
            *_conv(hidden, channels, kernels[1]), ShiftNorm(channels),
        )  # fmt: skip
        self.activation = activation()

    def forward(self, maps: Tensor) -> Tensor:
        return self.activation(self.residual(maps) + maps)


class SpeedResNet(Staged):
    """As `Staged`, but the features are the largest value of each channel's map plus its mean."""

    def fit(self, images: Tensor) -> None:
        """Take from (N, 3, S, S) normalised training pictures what the initial state depends on."""
        for part in self.stem.modules():
            if isinstance(part, Whitening):
                part.fit(images)

    def pool(self, maps: Tensor) -> Tensor:
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
    """For training in minutes: three groups of a convolution, max pooling and a residual pair (Page 2018).

    widths: channels of the groups, at 1/2, 1/4 and 1/8 of the picture's side. layout: full, every convolution
    3x3 (airbench); lean, half the arithmetic: the first pair is 1x1, the second goes through 3/4 of the
    channels and back by 1x1, the third through 2/3, and the third group begins with a 2x2 convolution.
    stem: 24 channels, of a 2x2 convolution fixed to whiten the training pictures' patches, or of a 3x3
    convolution that is trained. dirac: each convolution begins as the identity on as many channels as it
    has in common, in place of noise (airbench). Batch norms train no scale.
    The last map is pooled to its maximum plus its mean; logits are meant to be scaled down
    (`model.head.scale`). Pictures of 16 to 48 px suit it.
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
    # The 2x2 convolution takes a pixel off each side.
    least = 8 + (stem == "whitening")
    return SpeedResNet(first, groups, num_features=inputs, image_size=image_size, reduction=least)


def _conv(inputs: int, outputs: int, kernel: int) -> list[nn.Module]:
    """A convolution that keeps the map's size; the last pixel of an even kernel is the one it stands on."""
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2 if kernel % 2 else 0, bias=False)
    return [conv] if kernel % 2 else [nn.ZeroPad2d((kernel // 2, 0, kernel // 2, 0)), conv]


def _hidden(widths: tuple[int, int, int], layout: str) -> tuple[int, int, int]:
    """Channels between the two convolutions of each pair."""
    if layout == "full":
        return widths
    shares = (1.0, 3 / 4, 2 / 3)
    first, second, third = (
        max(1, min(width, round(width * share / LANES) * LANES))
        for width, share in zip(widths, shares, strict=True)
    )
    return first, second, third


def _kernels(layout: str) -> tuple[tuple[int, int, int], ...]:
    """Sides of the kernels of each group: of its first convolution and of its pair."""
    if layout == "full":
        return ((3, 3, 3), (3, 3, 3), (3, 3, 3))
    return ((3, 1, 1), (3, 3, 1), (2, 3, 3))
