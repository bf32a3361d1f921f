"""Augmentations that change colors and move no pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from cifarlab.augment.kernels import Lowered, column, lowers
from cifarlab.core.random import Draws

Strength = Annotated[float, Field(ge=0)]


def grayscale(images: Tensor) -> Tensor:
    """Convert pictures to gray as torchvision does.

    (B, 3, H, W) to (B, 1, H, W).
    """
    red, green, blue = images.split(1, dim=1)
    # Plain products and sums: a fused multiply-add may round differently in the vectorised part of a loop and
    # in its tail.
    return red * 0.2989 + green * 0.587 + blue * 0.114


def mean_exact(values: Tensor) -> Tensor:
    """Return the mean of each sample's values, bit for bit reproducible.

    Values are rounded to multiples of 2**-20 and summed as integers. The last bits of a sum of floats would
    depend on the batch size, the number of threads and the device.

    Args:
        values: (B, ...) in [0, 1].

    Returns:
        (B,) float32.
    """
    units = (values.flatten(1) * 2.0**20).round().to(torch.int32)
    return units.sum(1, dtype=torch.int64).to(torch.float32) * (2.0**-20 / units.shape[1])


def blend(images: Tensor, own: Tensor, gray: Tensor, mean: Tensor) -> Tensor:
    """Blend each picture with its gray version and mean gray value.

    The result is `own` x picture + `gray` x gray version + `mean` x mean gray value, clamped to [0, 1]. Each
    of the three factors is (B,). To change the brightness by a factor f, pass (own, gray, mean) = (f, 0, 0);
    for the saturation (f, 1 - f, 0); for the contrast (f, 0, 1 - f). (1, 0, 0) changes nothing.
    """
    luma = grayscale(images)
    added = luma * column(gray) + column(mean_exact(luma) * mean)
    # In place on the new tensor: on the CPU, allocating memory costs more than the arithmetic.
    return (images * column(own)).add_(added).clamp_(0, 1)


def shift_hue(images: Tensor, turns: Tensor) -> Tensor:
    """Shift the hue of (B, 3, H, W) pictures by `turns` (B,).

    One turn is the whole color circle.
    """
    red, green, blue = images.split(1, dim=1)
    high = torch.maximum(torch.maximum(red, green), blue)
    low = torch.minimum(torch.minimum(red, green), blue)
    spread = high - low
    divisor = torch.where(spread > 0, spread, 1.0)
    not_red = torch.where(high == green, (blue - red) / divisor + 2, (red - green) / divisor + 4)
    sextant = torch.where(high == red, (green - blue) / divisor, not_red) + column(turns) * 6
    # HSV to RGB in closed form: a channel lies below the highest by spread x min(k, 4 - k) clamped to [0, 1],
    # with k in sextants.
    k = sextant + (5 - 2 * torch.arange(3, device=images.device).view(1, 3, 1, 1))
    k -= (k * (1 / 6)).floor_().mul_(6)
    return high - torch.minimum(k, 4 - k).clamp_(0, 1).mul_(spread)


@dataclass(frozen=True)
class ColorChain:
    """A `Kernel` that calls `blend` several times, and `shift_hue` at most once.

    Its parameters are `own`, `gray` and `mean`, each (B, number of blends), and `turns`, (B,). A column of
    the first three holds the arguments of one call of `blend`. `turns` is the argument of `shift_hue`.

    Attributes:
        hue_at: `shift_hue` runs just before the `blend` of this column, from 0. None: the hue is not shifted.
    """

    hue_at: int | None = None

    def __call__(self, images: Tensor, *parameters: Tensor) -> Tensor:
        """Return the changed pictures, (B, 3, H, W); see `Kernel`."""
        own, gray, mean, turns = parameters
        for slot in range(own.shape[1]):
            if slot == self.hue_at:
                images = shift_hue(images, turns)
            images = blend(images, own[:, slot], gray[:, slot], mean[:, slot])
        return images


def _ranks(keys: Tensor) -> Tensor:
    """Return each key's rank in its row, from 0.

    (B, n) to (B, n) int64. Equal keys rank by index.
    """
    one, other = keys[:, :, None], keys[:, None, :]
    index = torch.arange(keys.shape[1], device=keys.device)
    return ((one > other) | ((one == other) & (index[:, None] > index))).sum(2)


@lowers
def color_jitter(
    images: Tensor,
    draws: Draws,
    *,
    brightness: Strength = 0.2,
    contrast: Strength = 0.2,
    saturation: Strength = 0.2,
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.5,
) -> Lowered:
    """Change brightness, contrast, saturation and hue (albumentations 2.0.8's ColorJitter).

    Each picture gets its own random factors, and its own random order of the four changes. The changes are
    computed in float32; albumentations rounds to 8 bits after each of them.

    Args:
        brightness: The picture is multiplied by a random factor between max(0, 1 - brightness) and 1 +
            brightness. 0 turns it off.
        contrast: Each value's distance from the mean of the gray picture is multiplied by a random factor
            between max(0, 1 - contrast) and 1 + contrast. 0 turns it off.
        saturation: Each pixel's distance from its gray value is multiplied by a random factor between max(0,
            1 - saturation) and 1 + saturation. 0 turns it off.
        hue: Largest shift of the hue in either direction, as a share of the color circle: 0.5 reaches every
            hue. 0 turns it off.
    """
    # All numbers in one call: on a GPU each call launches some thirty kernels.
    numbers = draws.uniform(shape=(8,))
    ranges = [(max(0.0, 1 - strength), 1 + strength) for strength in (brightness, contrast, saturation)]
    factors = torch.stack([low + numbers[:, i] * (high - low) for i, (low, high) in enumerate(ranges)], dim=1)
    turns = (numbers[:, 3] * 2 - 1) * hue
    ranks = _ranks(numbers[:, 4:])
    # The hue shift costs most, so it is computed once for the batch, with three blends before it and three
    # after. Each picture's order uses three of the six blends; its other three change nothing.
    places = torch.arange(3, device=images.device)
    kind, hue_rank = ranks[:, :3, None], ranks[:, 3, None, None]
    before = (kind == places) & (places < hue_rank)
    after = (kind == places + 1) & (places + 1 > hue_rank)
    active = torch.cat([before, after], dim=2)
    own = torch.where(active, factors[:, :, None], 0.0).sum(1) + (~active.any(1)).to(torch.float32)
    rest = torch.where(active, 1 - factors[:, :, None], 0.0)
    return Lowered(ColorChain(hue_at=3 if hue else None), (own, rest[:, 2], rest[:, 1], turns))
