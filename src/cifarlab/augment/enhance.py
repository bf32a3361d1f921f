"""Augmentations that scale one property of a picture: brightness, color, contrast or sharpness."""

from __future__ import annotations

import torch
from torch import Tensor

from cifarlab.augment.color import Strength, blend
from cifarlab.augment.kernels import Lowered, column, lowers
from cifarlab.core.random import Draws


def blend_each(images: Tensor, *parameters: Tensor) -> Tensor:
    """Run `blend` as a `Kernel`.

    The only parameter, (B, 3), holds the factors own, gray and mean of `blend`.
    """
    (factors,) = parameters
    own, gray, mean = factors.unbind(1)
    return blend(images, own, gray, mean)


def brightness_factors(factor: Tensor) -> Tensor:
    """Convert factors of brightness, (B,), to the parameter of `blend_each`, (B, 3).

    Factor 1 leaves a picture unchanged, factor 0 gives black.
    """
    zero = torch.zeros_like(factor)
    return torch.stack([factor, zero, zero], dim=1)


def color_factors(factor: Tensor) -> Tensor:
    """Convert factors of saturation, (B,), to the parameter of `blend_each`, (B, 3).

    Factor 1 leaves a picture unchanged, factor 0 gives its gray picture.
    """
    return torch.stack([factor, 1 - factor, torch.zeros_like(factor)], dim=1)


def contrast_factors(factor: Tensor) -> Tensor:
    """Convert factors of contrast, (B,), to the parameter of `blend_each`, (B, 3).

    Factor 1 leaves a picture unchanged, factor 0 gives the mean of its gray picture.
    """
    return torch.stack([factor, torch.zeros_like(factor), 1 - factor], dim=1)


def sharpen(images: Tensor, *parameters: Tensor) -> Tensor:
    """Blend each picture with its smoothed picture, clamped to [0, 1].

    The only parameter is a factor for each picture, (B,). The result is factor x picture + (1 - factor) x
    smoothed picture. As in PIL, a smoothed pixel is the weighted mean of the pixel, with weight 5/13, and its
    eight neighbours, with weight 1/13 each. Pixels at the border stay unchanged.
    """
    (factor,) = parameters
    if min(images.shape[-2:]) <= 2:
        return images
    # Sums of shifted pictures. The bits of a convolution may depend on the batch.
    rows = images[:, :, :-2] + images[:, :, 1:-1] + images[:, :, 2:]
    smooth = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    centre = images[:, :, 1:-1, 1:-1]
    smooth = smooth.add_(centre * 4).mul_(1 / 13)
    sharpened = images.clone()
    sharpened[:, :, 1:-1, 1:-1] = (centre * column(factor)).add_(smooth.mul_(column(1 - factor)))
    return sharpened.clamp_(0, 1)


def _factors(draws: Draws, strength: float) -> Tensor:
    return draws.uniform(max(0.0, 1 - strength), 1 + strength)


@lowers
def brightness(images: Tensor, draws: Draws, *, strength: Strength = 0.9) -> Lowered:
    """Multiply the picture by a random factor.

    Args:
        strength: The factor is drawn between max(0, 1 - strength) and 1 + strength. A factor of 0 gives
            black, and 1 the picture itself. A strength of 0 turns it off.
    """
    return Lowered(blend_each, (brightness_factors(_factors(draws, strength)),))


@lowers
def color(images: Tensor, draws: Draws, *, strength: Strength = 0.9) -> Lowered:
    """Change the saturation by a random factor.

    Args:
        strength: The factor is drawn between max(0, 1 - strength) and 1 + strength. A factor of 0 gives the
            gray picture, and 1 the picture itself. A strength of 0 turns it off.
    """
    return Lowered(blend_each, (color_factors(_factors(draws, strength)),))


@lowers
def contrast(images: Tensor, draws: Draws, *, strength: Strength = 0.9) -> Lowered:
    """Change the contrast by a random factor.

    Each value's distance from the mean of the gray picture is multiplied by the factor.

    Args:
        strength: The factor is drawn between max(0, 1 - strength) and 1 + strength. A factor of 0 gives the
            mean gray, and 1 the picture itself. A strength of 0 turns it off.
    """
    return Lowered(blend_each, (contrast_factors(_factors(draws, strength)),))


@lowers
def sharpness(images: Tensor, draws: Draws, *, strength: Strength = 0.9) -> Lowered:
    """Sharpen or smooth by a random factor.

    The pixels at the border stay as they are.

    Args:
        strength: The factor is drawn between max(0, 1 - strength) and 1 + strength. A factor of 0 gives the
            smoothed picture, 1 the picture itself, and more sharpens. A strength of 0 turns it off.
    """
    return Lowered(sharpen, (_factors(draws, strength),))
