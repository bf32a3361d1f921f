"""Augmentations that map each value to another: posterize, solarize, auto-contrast, equalize, invert.

Values are floats in [0, 1]. The operations follow torchvision's for floats, not those for 8-bit integers:

- `posterize` with b bits rounds down to multiples of 2**-b, not of 2**(8 - b) / 255.
- `solarize` has a threshold in [0, 1]. A threshold t corresponds to t x 255 for 8-bit integers.
- `auto_contrast` does not round its result.
- `equalize` quantises values to 256 levels and returns multiples of 1 / 255.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import AfterValidator, Field
from torch import Tensor

from cifarlab.augment.erase import FractionRange, ascending
from cifarlab.augment.kernels import Lowered, column, lowers
from cifarlab.core.random import Draws

Bits = Annotated[int, Field(ge=0, le=8)]
BitsRange = Annotated[tuple[Bits, Bits], AfterValidator(ascending)]


def cut_levels(images: Tensor, *parameters: Tensor) -> Tensor:
    """Round values down to multiples of 1 / levels.

    The value 1 becomes 1 - 1 / levels. The only parameter, levels, is (B,) float32 and holds powers of two.
    """
    levels = column(parameters[0])
    return torch.minimum((images * levels).floor_(), levels - 1).clamp_(min=0).div_(levels)


def invert_above(images: Tensor, *parameters: Tensor) -> Tensor:
    """Replace values x at or above a threshold by 1 - x.

    The only parameter is the threshold, (B,).
    """
    (threshold,) = parameters
    return torch.where(images >= column(threshold), 1 - images, images)


def stretch(images: Tensor, *parameters: Tensor) -> Tensor:
    """Stretch each channel linearly to [0, 1]; keep a constant channel."""
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    flat = low == high
    low, spread = torch.where(flat, 0.0, low), torch.where(flat, 1.0, high - low)
    return (images - low).div_(spread).clamp_(0, 1)


def equalize_levels(images: Tensor, *parameters: Tensor) -> Tensor:
    """Equalize the histogram of each channel at 256 levels, as PIL does.

    A channel stays unchanged, apart from the quantisation, if fewer than 255 of its pixels are darker than
    its brightest level.
    """
    # torchvision's conversion of floats to 8 bits: the factor just below 256 keeps 1.0 in the last level.
    levels = (images.flatten(2) * 255.999).to(torch.uint8).to(torch.int64)
    one = torch.ones((), dtype=torch.int32, device=images.device)
    counts = torch.zeros((*levels.shape[:2], 256), dtype=torch.int32, device=images.device)
    counts.scatter_add_(2, levels, one.expand_as(levels))
    darker = counts.cumsum(2, dtype=torch.int32) - counts
    brightest = counts.gather(2, levels.amax(2, keepdim=True))
    step = (levels.shape[2] - brightest) // 255
    table = (darker + step // 2).div_(step.clamp(min=1), rounding_mode="floor").clamp_(max=255)
    table = torch.where(step > 0, table, torch.arange(256, dtype=torch.int32, device=images.device))
    return (table.to(torch.float32) / 255).gather(2, levels).view(images.shape)


@lowers
def posterize(images: Tensor, draws: Draws, *, bits: BitsRange = (4, 8)) -> Lowered:
    """Keep only the leading bits of each value.

    With b bits, values in [0, 1] are rounded down to multiples of 2**-b, and 1 to 1 - 2**-b. torchvision does
    the same with floats.

    Args:
        bits: Range of the number of bits that are kept, both ends inclusive. 0 leaves the picture black.
    """
    count = draws.integers(bits[0], bits[1] + 1)
    return Lowered(cut_levels, ((torch.ones_like(count) << count).to(torch.float32),))


@lowers
def solarize(images: Tensor, draws: Draws, *, threshold: FractionRange = (0.0, 1.0)) -> Lowered:
    """Invert the bright values of each channel.

    Args:
        threshold: Range of the random threshold: 0 is black, 1 is full brightness. Values at or above the
            threshold are inverted, so a threshold of 0 inverts all.
    """
    return Lowered(invert_above, (draws.uniform(*threshold),))


@lowers
def invert(images: Tensor, draws: Draws) -> Lowered:
    """Invert all values of a picture, with probability `p`.

    A value x becomes 1 - x. The default of `p` is 1.
    """
    return Lowered(invert_above, (torch.zeros(len(images), device=images.device),))


@lowers
def auto_contrast(images: Tensor, draws: Draws) -> Lowered:
    """Stretch channels to full contrast, each picture with probability `p`.

    The default of `p` is 1. A constant channel stays unchanged.
    """
    return Lowered(stretch, ())


@lowers
def equalize(images: Tensor, draws: Draws) -> Lowered:
    """Equalize channels' histograms, each picture with probability `p`.

    The default of `p` is 1. Values are quantised to 256 levels first. A channel keeps its levels if fewer
    than 255 of its pixels are darker than its brightest level.
    """
    return Lowered(equalize_levels, ())
