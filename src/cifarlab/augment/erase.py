"""Augmentations that paint over parts of a picture."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import AfterValidator, Field
from torch import Tensor

from cifarlab.augment.geometry import Fraction
from cifarlab.augment.kernels import Lowered, lowers
from cifarlab.core.errors import ConfigError
from cifarlab.core.random import Draws


def ascending(value: tuple[float, float]) -> tuple[float, float]:
    """Return the range; raise ConfigError if its limits are in descending order."""
    if value[0] > value[1]:
        raise ConfigError(f"a range must run from low to high, got {list(value)}")
    return value


CountRange = Annotated[tuple[Annotated[int, Field(ge=1)], int], AfterValidator(ascending)]
RatioRange = Annotated[
    tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]], AfterValidator(ascending)
]
FractionRange = Annotated[tuple[Fraction, Fraction], AfterValidator(ascending)]


@dataclass(frozen=True)
class Erase:
    """A `Kernel` that paints rectangles.

    The only parameter is (B, holes, 4) int64: top, left, bottom and right of each rectangle in pixels, the
    last two exclusive.

    Attributes:
        holes: Number of rectangles per picture.
        fill: Value that is painted: 0 is black, 1 is white.
    """

    holes: int
    fill: float = 0.0

    def __call__(self, images: Tensor, *parameters: Tensor) -> Tensor:
        """Return the changed pictures, (B, 3, H, W); see `Kernel`."""
        (boxes,) = parameters
        top, left, bottom, right = boxes[..., None].unbind(2)
        y = torch.arange(images.shape[-2], device=images.device)
        x = torch.arange(images.shape[-1], device=images.device)
        rows, columns = (y >= top) & (y < bottom), (x >= left) & (x < right)
        covered = (rows[:, :, :, None] & columns[:, :, None, :]).any(1, keepdim=True)
        return torch.where(covered, self.fill, images)


@lowers
def coarse_dropout(
    images: Tensor,
    draws: Draws,
    *,
    holes: CountRange = (1, 2),
    height: FractionRange = (0.1, 0.2),
    width: FractionRange = (0.1, 0.2),
    fill: Fraction = 0.0,
) -> Lowered:
    """Paint random rectangles within the picture (albumentations 2.0.8's CoarseDropout).

    Each picture has its own rectangles. They may overlap.

    Args:
        holes: Smallest and largest number of rectangles, both inclusive.
        height: Smallest and largest height of a rectangle, as shares of the picture's height. The drawn
            height is rounded down to whole pixels.
        width: Smallest and largest width of a rectangle, as shares of the picture's width. The drawn width
            is rounded down to whole pixels.
        fill: Value that is painted: 0 is black, 1 is white.
    """
    most = holes[1]
    rows, columns = images.shape[-2:]
    # All numbers in one call: on a GPU each call launches some thirty kernels.
    numbers = draws.uniform(shape=(1 + 4 * most,))
    # The uniform numbers have 24 bits, so their product with a whole number below 2**24 never rounds up to
    # that number.
    count = (numbers[:, :1] * (most - holes[0] + 1)).floor() + holes[0]
    size, place = numbers[:, 1:].unflatten(1, (2, 2, most)).unbind(1)
    tall = (rows * (height[0] + size[:, 0] * (height[1] - height[0]))).floor()
    wide = (columns * (width[0] + size[:, 1] * (width[1] - width[0]))).floor()
    top = (place[:, 0] * (rows - tall + 1)).floor()
    left = (place[:, 1] * (columns - wide + 1)).floor()
    painted = torch.arange(most, device=images.device) < count
    boxes = torch.stack([top, left, top + tall * painted, left + wide], dim=2).to(torch.int64)
    return Lowered(Erase(most, fill), (boxes,))


@lowers
def cutout(
    images: Tensor, draws: Draws, *, size: Annotated[int, Field(ge=1)] = 8, fill: Fraction = 0.0
) -> Lowered:
    """Paint one square, centred anywhere in the picture (DeVries and Taylor, 2017).

    The square is clipped at the picture's border, so that less than the whole square may be painted.

    Args:
        size: Side of the square in pixels. The paper uses 16 on CIFAR-10 and 8 on CIFAR-100.
        fill: Value that is painted: 0 is black, 1 is white.
    """
    numbers = draws.uniform(shape=(1, 2))
    centre = torch.stack([numbers[..., 0] * images.shape[-2], numbers[..., 1] * images.shape[-1]], dim=2)
    start = centre.to(torch.int64) - size // 2
    return Lowered(Erase(1, fill), (torch.cat([start, start + size], dim=2),))


# At most this many boxes are drawn until one fits, as in torchvision.
_TRIES = 10


@lowers
def random_erasing(
    images: Tensor,
    draws: Draws,
    *,
    area: FractionRange = (0.02, 0.33),
    ratio: RatioRange = (0.3, 3.3),
    fill: Fraction = 0.0,
) -> Lowered:
    """Paint one random rectangle within the picture (Zhong et al., 2020).

    The rectangle is drawn as in torchvision's RandomErasing. It must be smaller than the picture in both
    height and width; otherwise it is drawn again, up to ten times in all. If none of the ten fits, the
    picture stays unchanged.

    The default of `p` is 1, as for all augmentations. The paper uses 0.5.

    Args:
        area: Range of the rectangle's area, as a share of the picture's area.
        ratio: Range of the rectangle's height divided by its width. The logarithm of the ratio is drawn
            uniformly, so that flat and tall rectangles are equally likely if the limits are 1 / r and r.
        fill: Value that is painted: 0 is black, 1 is white.
    """
    rows, columns = images.shape[-2:]
    # All numbers in one call: on a GPU each call launches some thirty kernels.
    numbers = draws.uniform(shape=(4, _TRIES))
    size = (area[0] + numbers[:, 0] * (area[1] - area[0])) * (rows * columns)
    low, high = math.log(ratio[0]), math.log(ratio[1])
    slope = ((low + numbers[:, 1] * (high - low)) / 2).exp()
    tall, wide = (size.sqrt() * slope).round(), (size.sqrt() / slope).round()
    fits = (tall < rows) & (wide < columns)
    first = fits & (fits.to(torch.int32).cumsum(1) == 1)
    top = (numbers[:, 2] * (rows - tall + 1)).floor()
    left = (numbers[:, 3] * (columns - wide + 1)).floor()
    boxes = torch.stack([top, left, top + tall, left + wide], dim=2)
    # If none fits: a box without pixels.
    box = torch.where(first[:, :, None], boxes, 0.0).sum(1, keepdim=True)
    return Lowered(Erase(1, fill), (box.to(torch.int64),))
