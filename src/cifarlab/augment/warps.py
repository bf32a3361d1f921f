"""Augmentations that shear or shift along one axis, or rotate, as the policies in `searched` use them."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from cifarlab.augment.geometry import Fraction, Interpolation, Warp
from cifarlab.augment.kernels import Lowered, lowers
from cifarlab.core.random import Draws

Shear = Annotated[float, Field(ge=0, le=10)]
Degrees = Annotated[float, Field(ge=0, le=180)]


def _matrix(x: tuple[Tensor, Tensor, Tensor], y: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    return torch.stack([torch.stack(x, dim=-1), torch.stack(y, dim=-1)], dim=-2)


def shear_x_matrix(shear: Tensor, height: int, width: int) -> Tensor:
    """Return the (B, 2, 3) matrix of `Warp` for a horizontal shear.

    Each row moves left by `shear` (B,) times its distance from the upper edge.
    """
    one, zero = torch.ones_like(shear), torch.zeros_like(shear)
    return _matrix((one, shear, shear * (height / 2)), (zero, one, zero))


def shear_y_matrix(shear: Tensor, height: int, width: int) -> Tensor:
    """Return the (B, 2, 3) matrix of `Warp` for a vertical shear.

    Each column moves up by `shear` (B,) times its distance from the left edge.
    """
    one, zero = torch.ones_like(shear), torch.zeros_like(shear)
    return _matrix((one, zero, zero), (shear, one, shear * (width / 2)))


def translate_x_matrix(pixels: Tensor, height: int, width: int) -> Tensor:
    """Return the (B, 2, 3) matrix of `Warp` for a horizontal shift.

    `pixels` (B,) are the shifts to the right, truncated to whole pixels.
    """
    one, zero = torch.ones_like(pixels), torch.zeros_like(pixels)
    return _matrix((one, zero, -pixels.trunc()), (zero, one, zero))


def translate_y_matrix(pixels: Tensor, height: int, width: int) -> Tensor:
    """Return the (B, 2, 3) matrix of `Warp` for a vertical shift.

    `pixels` (B,) are the downward shifts, truncated to whole pixels.
    """
    one, zero = torch.ones_like(pixels), torch.zeros_like(pixels)
    return _matrix((one, zero, zero), (zero, one, -pixels.trunc()))


def rotate_matrix(degrees: Tensor, height: int, width: int) -> Tensor:
    """Return the (B, 2, 3) matrix of `Warp` for a rotation.

    The rotation is about the centre. `degrees` (B,) are the counter-clockwise angles.
    """
    angle, zero = degrees * (math.pi / 180), torch.zeros_like(degrees)
    cos, sin = angle.cos(), angle.sin()
    return _matrix((cos, -sin, zero), (sin, cos, zero))


@lowers
def shear_x(
    images: Tensor,
    draws: Draws,
    *,
    shear: Shear = 0.3,
    interpolation: Interpolation = "nearest",
    fill: Fraction = 0.0,
) -> Lowered:
    """Shear to the left or right, with the upper edge fixed.

    torchvision's policies shear in this way.

    Args:
        shear: Largest shear in either direction, in pixels per row (the tangent of the angle). 0 turns it
            off.
        interpolation: How a value between pixels is read: nearest takes the nearest pixel, bilinear a
            weighted mean of the four around it.
        fill: Value outside the picture: 0 is black, 1 is white.
    """
    matrix = shear_x_matrix(draws.uniform(-shear, shear), *images.shape[-2:])
    return Lowered(Warp("constant", fill, interpolation), (matrix,))


@lowers
def shear_y(
    images: Tensor,
    draws: Draws,
    *,
    shear: Shear = 0.3,
    interpolation: Interpolation = "nearest",
    fill: Fraction = 0.0,
) -> Lowered:
    """Shear up or down, with the left edge fixed.

    torchvision's policies shear in this way.

    Args:
        shear: Largest shear in either direction, in pixels per column (the tangent of the angle). 0 turns it
            off.
        interpolation: How a value between pixels is read: nearest takes the nearest pixel, bilinear a
            weighted mean of the four around it.
        fill: Value outside the picture: 0 is black, 1 is white.
    """
    matrix = shear_y_matrix(draws.uniform(-shear, shear), *images.shape[-2:])
    return Lowered(Warp("constant", fill, interpolation), (matrix,))


@lowers
def translate_x(
    images: Tensor,
    draws: Draws,
    *,
    shift: Fraction = 0.45,
    interpolation: Interpolation = "nearest",
    fill: Fraction = 0.0,
) -> Lowered:
    """Shift to the left or right by whole pixels.

    Args:
        shift: Largest shift in either direction, as a share of the picture's width. Shifts are truncated to
            whole pixels. 0 turns it off.
        interpolation: Has no visible effect, because shifts are whole pixels. Inside `one_of`, use the same
            value for all warps: those with equal `interpolation` and `fill` are computed in one pass.
        fill: Value outside the picture: 0 is black, 1 is white.
    """
    height, width = images.shape[-2:]
    matrix = translate_x_matrix(draws.uniform(-shift * width, shift * width), height, width)
    return Lowered(Warp("constant", fill, interpolation), (matrix,))


@lowers
def translate_y(
    images: Tensor,
    draws: Draws,
    *,
    shift: Fraction = 0.45,
    interpolation: Interpolation = "nearest",
    fill: Fraction = 0.0,
) -> Lowered:
    """Shift up or down by whole pixels.

    Args:
        shift: Largest shift in either direction, as a share of the picture's height. Shifts are truncated to
            whole pixels. 0 turns it off.
        interpolation: Has no visible effect, because shifts are whole pixels. Inside `one_of`, use the same
            value for all warps: those with equal `interpolation` and `fill` are computed in one pass.
        fill: Value outside the picture: 0 is black, 1 is white.
    """
    height, width = images.shape[-2:]
    matrix = translate_y_matrix(draws.uniform(-shift * height, shift * height), height, width)
    return Lowered(Warp("constant", fill, interpolation), (matrix,))


@lowers
def rotate(
    images: Tensor,
    draws: Draws,
    *,
    degrees: Degrees = 30.0,
    interpolation: Interpolation = "nearest",
    fill: Fraction = 0.0,
) -> Lowered:
    """Rotate the picture about its centre.

    Args:
        degrees: Largest angle in either direction, in degrees. 0 turns it off.
        interpolation: How a value between pixels is read: nearest takes the nearest pixel, bilinear a
            weighted mean of the four around it.
        fill: Value outside the picture: 0 is black, 1 is white.
    """
    matrix = rotate_matrix(draws.uniform(-degrees, degrees), *images.shape[-2:])
    return Lowered(Warp("constant", fill, interpolation), (matrix,))
