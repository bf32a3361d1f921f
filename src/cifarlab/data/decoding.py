"""Decoding of one picture of any size, format and mode to a square RGB array."""

from __future__ import annotations

import functools
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from cifarlab.core.errors import ConfigError, reason_of

# Pillow passes EPS to another program (Ghostscript), and only identifies the other formats without decoding
# them.
NOT_READ = frozenset({"EPS", "BUFR", "GRIB", "HDF5", "MPEG", "WMF"})


@functools.cache
def suffixes() -> frozenset[str]:
    """Return the file name suffixes of the readable formats, such as ".png"."""
    known = Image.registered_extensions().items()
    return frozenset(suffix for suffix, name in known if name in formats())


@functools.cache
def formats() -> tuple[str, ...]:
    """Return Pillow's names of the readable formats."""
    Image.init()
    return tuple(name for name in Image.OPEN if name not in NOT_READ)


def decode(picture: str | Path | Image.Image, size: int) -> np.ndarray:
    """Decode the middle square of a picture, resized (bicubic, antialiased).

    The picture may have any format of `formats` and any mode. It is rotated as its EXIF orientation says,
    transparent pixels are blended with white, and 16-bit values are scaled to 8 bits. Of several frames, the
    first is used.

    Args:
        picture: A path or an opened picture.
        size: Side of the result in pixels.

    Returns:
        The RGB picture, (3, size, size) uint8.

    Raises:
        ConfigError: The picture cannot be read. The message names the file.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return decode_or_raise(picture, size)
        except Exception as error:
            name = "picture" if isinstance(picture, Image.Image) else str(picture)
            raise ConfigError(f"cannot read {name}: {picture_fault(error)}") from None


def decode_or_raise(picture: str | Path | Image.Image, size: int) -> np.ndarray:
    """Decode like `decode`, but pass on Pillow's warnings and errors.

    Threads must use this function, because `decode` suppresses warnings in a way that is not thread-safe.
    """
    if not isinstance(picture, Image.Image):
        with Image.open(picture, formats=formats()) as opened:
            width, height = opened.size
            if Image.MAX_IMAGE_PIXELS and width * height > Image.MAX_IMAGE_PIXELS:
                raise ValueError(f"{width} x {height} pixels, more than PIL.Image.MAX_IMAGE_PIXELS")
            # A JPEG can be decoded at 1/2, 1/4 or 1/8 of its size, many times faster. Twice the wanted size
            # keeps the quality.
            opened.draft(None, (2 * size, 2 * size))
            return decode_or_raise(opened, size)
    picture = _rgb(ImageOps.exif_transpose(picture))
    side = min(picture.size)
    left, top = (picture.width - side) / 2, (picture.height - side) / 2
    if side == size:
        picture = picture.crop((int(left), int(top), int(left) + side, int(top) + side))
    else:
        # Crop while resizing. Resizing first would turn a strip of 1 x 100,000 pixels into 32 x 3,200,000.
        box = (left, top, left + side, top + side)
        picture = picture.resize((size, size), Image.Resampling.BICUBIC, box)
    return np.ascontiguousarray(np.asarray(picture).transpose(2, 0, 1))


def _rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):
        # Pillow's own conversion clips 16-bit values to 255.
        values = np.clip(np.asarray(picture).astype(np.int64), 0, 65535)
        return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8)).convert("RGB")
    if picture.mode == "F":
        values = np.nan_to_num(np.asarray(picture))
        values = values * 255 if values.max(initial=0) <= 1 else values
        return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8)).convert("RGB")
    if picture.has_transparency_data:
        layer = picture.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return picture.convert("RGB")


def picture_fault(error: Exception) -> str:
    """Explain in a few words an error of `decode_or_raise`."""
    if isinstance(error, UnidentifiedImageError):
        return "not a picture in a format that Pillow reads"
    return reason_of(error)
