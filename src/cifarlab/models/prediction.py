"""Prediction of a picture's most probable classes, and reading of the picture.

A picture is a file's path, a PIL image, a numpy array or a tensor.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from cifarlab.core.errors import ConfigError
from cifarlab.core.records import Record
from cifarlab.data.decoding import decode

# A file, a PIL image, a numpy array (H, W, 3) of uint8, or a tensor (3, H, W).
Picture: TypeAlias = str | Path | Image.Image | np.ndarray | Tensor
_FORMS = (
    "a file's path, a PIL image, a numpy array (H, W, 3) of uint8, or a tensor (3, H, W) of uint8 or of "
    "floats in [0, 1]"
)
# The largest number of pictures in a forward pass, and of their pixels in total.
PICTURES_AT_ONCE, PIXELS_AT_ONCE = 64, 64 * 224 * 224


class Prediction(Record):
    """The most probable classes of a picture.

    Attributes:
        picture: Path of the picture's file; None if the picture was given as an object.
        classes: Names of the classes, the most probable first.
        probabilities: Their probabilities in the same order.
    """

    picture: str | None
    classes: tuple[str, ...]
    probabilities: tuple[float, ...]

    @property
    def label(self) -> str:
        """Return the name of the most probable class."""
        return self.classes[0]


def as_pictures(pictures: Picture | Iterable[Picture]) -> list[Picture]:
    """Return a list of pictures from one picture, several, or a batch.

    A batch is an array or tensor with four dimensions. The pictures themselves are not checked.

    Raises:
        ConfigError: The argument is neither a picture nor iterable.
    """
    if isinstance(pictures, np.ndarray | Tensor) and pictures.ndim == 4:
        return [*pictures]
    if isinstance(pictures, str | Path | Image.Image | np.ndarray | Tensor):
        return [pictures]
    if not isinstance(pictures, Iterable):
        raise ConfigError(f"expected {_FORMS}, or several of them; got {type(pictures).__name__}")
    return [*pictures]


def read_picture(picture: Picture, size: int) -> Tensor:
    """Read a picture's central square, resized, as floats in [0, 1].

    Tensors of floats are resized by torch (bilinear, antialiased), all other pictures by Pillow (bicubic,
    antialiased).

    Returns:
        (3, size, size) float32.

    Raises:
        ConfigError: If the picture has another form, shape or range of values. The message names the expected
            form.
    """
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[-1] != 3 or 0 in picture.shape:
            raise _unexpected("a numpy array (H, W, 3) of uint8", picture.dtype, picture.shape)
        picture = Image.fromarray(np.ascontiguousarray(picture))
    elif isinstance(picture, Tensor):
        _refuse_other_tensor(picture)
        if picture.dtype != torch.uint8:
            return _middle_square(picture.detach().float().cpu(), size)
        picture = Image.fromarray(picture.permute(1, 2, 0).contiguous().cpu().numpy())
    elif isinstance(picture, Image.Image):
        if 0 in picture.size:
            width, height = picture.size
            raise ConfigError(f"expected a PIL image of at least 1 x 1 pixels, got {width} x {height}")
    elif not isinstance(picture, str | Path):
        raise ConfigError(f"expected {_FORMS}; got {type(picture).__name__}")
    return torch.from_numpy(decode(picture, size)).float() / 255


def in_batches(pictures: Sequence[Picture], size: int, seen_at: int) -> Iterator[Tensor]:
    """Yield batches (B, 3, size, size), reading each batch's pictures when needed.

    Args:
        pictures: The pictures.
        size: Side length in pixels of the batches.
        seen_at: Side length in pixels to which the model resizes the pictures. The larger it is, the smaller
            are the batches.
    """
    count = max(1, min(PICTURES_AT_ONCE, PIXELS_AT_ONCE // seen_at**2))
    for start in range(0, len(pictures), count):
        yield torch.stack([read_picture(picture, size) for picture in pictures[start : start + count]])


def _refuse_other_tensor(picture: Tensor) -> None:
    expected = "a tensor (3, H, W) of uint8 or of floats in [0, 1]"
    is_known = picture.dtype == torch.uint8 or picture.is_floating_point()
    if picture.ndim != 3 or picture.shape[0] != 3 or 0 in picture.shape or not is_known:
        raise _unexpected(expected, picture.dtype, picture.shape)
    if picture.is_floating_point():
        low, high = picture.min().item(), picture.max().item()
        if not (low >= 0 and high <= 1):
            raise ConfigError(
                f"expected {expected}, got values from {low:g} to {high:g}; the model normalises by itself"
            )


def _unexpected(expected: str, dtype: object, shape: Sequence[int]) -> ConfigError:
    kind = str(dtype).removeprefix("torch.")
    return ConfigError(f"expected {expected}, got {kind} of shape {tuple(shape)}")


def _middle_square(picture: Tensor, size: int) -> Tensor:
    side = min(picture.shape[1:])
    top, left = ((length - side) // 2 for length in picture.shape[1:])
    square = picture[None, :, top : top + side, left : left + side]
    if side != size:
        square = F.interpolate(
            square, (size, size), mode="bilinear", align_corners=False, antialias=size < side
        ).clamp(0, 1)
    return square[0]
