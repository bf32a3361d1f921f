"""Augmentations that move pixels: crop, flips, and affine warps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from cifarlab.augment.kernels import Lowered, lowers, select
from cifarlab.core.random import Draws

# How pixels outside the picture are filled. `reflect` does not repeat the edge pixel, as in torch's and
# numpy's pad.
BorderMode = Literal["constant", "reflect", "replicate"]
Interpolation = Literal["nearest", "bilinear"]
Fraction = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True)
class Reindex:
    """A `Kernel` that moves whole pixels, exactly and without interpolation.

    Output pixel (i, j) is input pixel (rows[i], columns[j]). The parameters are rows, (B, H) int64, and
    columns, (B, W) int64.

    Attributes:
        fill: Value of output pixels whose index lies outside the picture. None: they get the value of the
            nearest edge pixel.
    """

    fill: float | None = None

    def __call__(self, images: Tensor, *parameters: Tensor) -> Tensor:
        """Return the changed pictures, (B, 3, H, W); see `Kernel`."""
        rows, columns = parameters
        height, width = images.shape[-2:]
        flat = rows.clamp(0, height - 1)[:, :, None] * width + columns.clamp(0, width - 1)[:, None, :]
        flat = flat.flatten(1)[:, None].expand(-1, images.shape[1], -1)
        moved = images.flatten(2).gather(2, flat).view(images.shape)
        if self.fill is None:
            return moved
        inside = _inside(rows, height)[:, None, :, None] & _inside(columns, width)[:, None, None, :]
        return torch.where(inside, moved, self.fill)


def _inside(index: Tensor, size: int) -> Tensor:
    return (index >= 0) & (index < size)


@dataclass(frozen=True)
class Warp:
    """A `Kernel` that resamples pictures with an affine map.

    The output pixel at position q gets the value of the input at position A q + b. Positions are (x, y) in
    pixels, measured from the centre. The only parameter is the matrix (A | b), (B, 2, 3) float32.

    Attributes:
        border: Which values pixels outside the picture get: `fill` ("constant"), those of the mirror image
            ("reflect"), or that of the nearest edge pixel ("replicate").
        fill: Value outside the picture if `border` is "constant".
        interpolation: How values between pixels are computed, as in `torch.nn.functional.grid_sample`.
    """

    border: BorderMode = "constant"
    fill: float = 0.0
    interpolation: Interpolation = "bilinear"

    def __call__(self, images: Tensor, *parameters: Tensor) -> Tensor:
        """Return the changed pictures, (B, 3, H, W); see `Kernel`."""
        (matrix,) = parameters
        height, width = images.shape[-2:]
        x = torch.arange(width, device=images.device) - (width - 1) / 2
        y = torch.arange(height, device=images.device) - (height - 1) / 2
        source = []
        for axis, size in ((0, width), (1, height)):
            across = matrix[:, axis, 0, None] * x + matrix[:, axis, 2, None]
            positions = across[:, None, :] + (matrix[:, axis, 1, None] * y)[:, :, None]
            if self.border == "reflect":
                positions = _reflect(positions + (size - 1) / 2, size) - (size - 1) / 2
            source.append(positions * (2 / size))
        grid = torch.stack(source, dim=-1)
        if self.border == "constant" and self.fill:
            return (self._sample(images - self.fill, grid, "zeros") + self.fill).clamp_(0, 1)
        return self._sample(images, grid, "zeros" if self.border == "constant" else "border").clamp_(0, 1)

    def _sample(self, images: Tensor, grid: Tensor, padding: str) -> Tensor:
        return F.grid_sample(images, grid, mode=self.interpolation, padding_mode=padding, align_corners=False)


def _reflect(positions: Tensor, size: int) -> Tensor:
    """Reflect positions in pixels into [0, size - 1]."""
    period = max(2 * (size - 1), 1)
    return (positions - period * (positions / period).round()).abs()


@lowers
def crop(
    images: Tensor,
    draws: Draws,
    *,
    padding: Annotated[int, Field(ge=0)] = 4,
    border: BorderMode = "constant",
    fill: Fraction = 0.0,
) -> Lowered:
    """Pad the picture, then crop it at random to its original size.

    Args:
        padding: Pixels that are added on each side. This is also the largest shift in each direction. 0 turns
            it off.
        border: Which values pixels outside the picture get. constant: the value `fill`. reflect: the mirror
            image of the picture, in which the edge pixel is not repeated. replicate: the value of the nearest
            edge pixel.
        fill: Value outside the picture if `border` is constant: 0 is black, 1 is white. Not used otherwise.
    """
    height, width = images.shape[-2:]
    offsets = draws.integers(-padding, padding + 1, shape=(2,))
    rows = offsets[:, :1] + torch.arange(height, device=images.device)
    columns = offsets[:, 1:] + torch.arange(width, device=images.device)
    if border == "reflect":
        # Whole numbers below 2**24 are exact in float32.
        rows = _reflect(rows.to(torch.float32), height).to(torch.int64)
        columns = _reflect(columns.to(torch.float32), width).to(torch.int64)
    return Lowered(Reindex(fill if border == "constant" else None), (rows, columns))


def _in_place(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return parameters of `Reindex` that move no pixel: rows, columns."""
    height, width = images.shape[-2:]
    rows = torch.arange(height, device=images.device).expand(len(images), -1)
    columns = torch.arange(width, device=images.device).expand(len(images), -1)
    return rows, columns


@lowers
def flip(images: Tensor, draws: Draws) -> Lowered:
    """Mirror left and right, each picture with probability `p`.

    The default of `p` is 1. The usual random flip is `flip: {p: 0.5}`.
    """
    rows, columns = _in_place(images)
    return Lowered(Reindex(), (rows, images.shape[-1] - 1 - columns))


@lowers
def alternating_flip(images: Tensor, draws: Draws) -> Lowered:
    """Mirror left and right every other epoch (Jordan 2024).

    Whether a picture is mirrored in the first epoch is random. Two consecutive epochs then show every picture
    both ways. Independent flips do so only half of the time (airbench, arXiv:2404.00498, section 3.6).

    If `data.views` is n, epochs n + 1, n + 2, ... repeat the augmented pictures of epochs 1, 2, ..., with
    the same flips. If n is odd, epochs n and n + 1 therefore mirror the same pictures.
    """
    begins_mirrored = draws.of_epoch(0).bernoulli(0.5)
    mirrored = begins_mirrored ^ (draws.epoch % 2 == 1)
    rows, columns = _in_place(images)
    return Lowered(Reindex(), (rows, select(mirrored, images.shape[-1] - 1 - columns, columns)))


@lowers
def vertical_flip(images: Tensor, draws: Draws) -> Lowered:
    """Mirror top and bottom, each picture with probability `p`.

    The default of `p` is 1. The usual random flip is `vertical_flip: {p: 0.5}`.
    """
    rows, columns = _in_place(images)
    return Lowered(Reindex(), (images.shape[-2] - 1 - rows, columns))


def affine_matrix(scale: Tensor, degrees: Tensor, shift: Tensor) -> Tensor:
    """Return the parameter of `Warp` that scales, rotates and shifts.

    Args:
        scale: Factors (B, 2), x before y.
        degrees: Angles (B,) of the counter-clockwise rotation about the centre.
        shift: Shifts (B, 2) to the right and downward, in pixels.

    Returns:
        Matrices (B, 2, 3).
    """
    angle = degrees * (math.pi / 180)
    cos, sin = angle.cos(), angle.sin()
    # `Warp` maps output positions to input positions, so this is the inverse of q' = R S q + t, with y
    # pointing down.
    linear = torch.stack([torch.stack([cos, -sin], dim=1), torch.stack([sin, cos], dim=1)], dim=1)
    linear = linear / scale[:, :, None]
    offset = -(linear[:, :, :1] * shift[:, None, :1] + linear[:, :, 1:] * shift[:, None, 1:])
    return torch.cat([linear, offset], dim=2)


@lowers
def shift_scale_rotate(
    images: Tensor,
    draws: Draws,
    *,
    shift: Fraction = 0.0625,
    scale: Annotated[float, Field(ge=0, lt=1)] = 0.1,
    rotate: Annotated[float, Field(ge=0, le=180)] = 45.0,
    border: BorderMode = "constant",
    fill: Fraction = 0.0,
) -> Lowered:
    """Shift, scale and rotate at random (albumentations 2.0.8's ShiftScaleRotate).

    Scaling and rotation are about the centre. As in albumentations, the two axes scale independently. Values
    between pixels are interpolated bilinearly.

    Args:
        shift: Largest shift in either direction, as a share of the picture's side. Shifts are truncated to
            whole pixels: at 32 pixels the default shifts by -1, 0 or 1, with probabilities 1/4, 1/2 and 1/4.
            0 turns it off.
        scale: Factors are drawn between 1 - scale and 1 + scale. 0 turns it off.
        rotate: Largest angle in either direction, in degrees. 0 turns it off.
        border: Which values pixels outside the picture get. constant: the value `fill`. reflect: the mirror
            image of the picture, in which the edge pixel is not repeated. replicate: the value of the nearest
            edge pixel.
        fill: Value outside the picture if `border` is constant: 0 is black, 1 is white. Not used otherwise.
    """
    height, width = images.shape[-2:]
    numbers = draws.uniform(-1.0, 1.0, shape=(5,))
    shifts = torch.stack([numbers[:, 0] * (shift * width), numbers[:, 1] * (shift * height)], dim=1).trunc()
    matrix = affine_matrix(1.0 + numbers[:, 2:4] * scale, numbers[:, 4] * rotate, shifts)
    return Lowered(Warp(border, fill), (matrix,))
