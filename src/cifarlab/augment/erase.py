"""Augmentations that paint over parts of a picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import AfterValidator, Field
from torch import Tensor

from cifarlab.augment.geometry import Fraction
from cifarlab.augment.steps import Step, lowers
from cifarlab.draws import Draws
from cifarlab.registry import ConfigError


def ascending(value: tuple[float, float]) -> tuple[float, float]:
    """The range as given. Raises ConfigError if it runs from high to low."""
    if value[0] > value[1]:
        raise ConfigError(f"a range runs from low to high, got {list(value)}")
    return value


CountRange = Annotated[tuple[Annotated[int, Field(ge=1)], int], AfterValidator(ascending)]
FractionRange = Annotated[tuple[Fraction, Fraction], AfterValidator(ascending)]


@dataclass(frozen=True)
class Erase:
    """Paint rectangles. boxes: (B, holes, 4) int64: top, left, bottom, right, the last two exclusive."""

    holes: int
    fill: float = 0.0

    def __call__(self, images: Tensor, *parameters: Tensor) -> Tensor:
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
) -> Step:
    """Paint random rectangles that lie within the picture, as albumentations 2.0.8's CoarseDropout.

    holes: fewest and most rectangles. height, width: fractions of the side, from and to, cut to whole pixels.
    """
    most = holes[1]
    rows, columns = images.shape[-2:]
    # All numbers in one call: on a GPU each call costs some thirty kernels.
    numbers = draws.uniform(shape=(1 + 4 * most,))
    # A uniform of 24 bits times a whole number below 2**24 never rounds up to that number.
    count = (numbers[:, :1] * (most - holes[0] + 1)).floor() + holes[0]
    size, place = numbers[:, 1:].unflatten(1, (2, 2, most)).unbind(1)
    tall = (rows * (height[0] + size[:, 0] * (height[1] - height[0]))).floor()
    wide = (columns * (width[0] + size[:, 1] * (width[1] - width[0]))).floor()
    top = (place[:, 0] * (rows - tall + 1)).floor()
    left = (place[:, 1] * (columns - wide + 1)).floor()
    painted = torch.arange(most, device=images.device) < count
    boxes = torch.stack([top, left, top + tall * painted, left + wide], dim=2).to(torch.int64)
    return Step(Erase(most, fill), (boxes,))


@lowers
def cutout(
    images: Tensor, draws: Draws, *, size: Annotated[int, Field(ge=1)] = 8, fill: Fraction = 0.0
) -> Step:
    """Paint one square, its centre anywhere in the picture, cut off at the border (DeVries and Taylor, 2017).

    size: the square's side, in pixels; the paper takes 16 on CIFAR-10 and 8 on CIFAR-100.
    """
    numbers = draws.uniform(shape=(1, 2))
    centre = torch.stack([numbers[..., 0] * images.shape[-2], numbers[..., 1] * images.shape[-1]], dim=2)
    start = centre.to(torch.int64) - size // 2
    return Step(Erase(1, fill), (torch.cat([start, start + size], dim=2),))
