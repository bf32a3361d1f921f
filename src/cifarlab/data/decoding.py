"""One picture of any size, format and mode to a square RGB array."""

from __future__ import annotations

import functools
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from cifarlab.core.errors import ConfigError

# Formats that Pillow hands to another program (EPS, to Ghostscript) or only identifies.
NOT_READ = frozenset({"EPS", "BUFR", "GRIB", "HDF5", "MPEG", "WMF"})


@functools.cache
def suffixes() -> frozenset[str]:
    """The file name suffixes, in lower case, of the formats that are read."""
    known = Image.registered_extensions().items()
    return frozenset(suffix for suffix, name in known if name in formats())


@functools.cache
def formats() -> tuple[str, ...]:
    """Pillow's names of the formats that are read."""
    Image.init()
    return tuple(name for name in Image.OPEN if name not in NOT_READ)


def decode(picture: str | Path | Image.Image, size: int) -> np.ndarray:
    """(3, size, size) uint8 RGB: the middle square of a picture, resized (bicubic, antialiased).

    A file may have any format and mode that Pillow reads: it is turned as its EXIF orientation says,
    transparency is laid on white, 16-bit values are scaled to 8. Of several frames the first is taken. Raises
    ConfigError, naming the file, for one that cannot be read.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return decode_or_raise(picture, size)
        except Exception as error:
            name = "picture" if isinstance(picture, Image.Image) else str(picture)
            raise ConfigError(f"cannot read {name}: {reason_of(error)}") from None


def decode_or_raise(picture: str | Path | Image.Image, size: int) -> np.ndarray:
    """As `decode`, for threads: lets Pillow's warnings and errors, of any kind, through."""
    if not isinstance(picture, Image.Image):
        with Image.open(picture, formats=formats()) as opened:
            width, height = opened.size
            if Image.MAX_IMAGE_PIXELS and width * height > Image.MAX_IMAGE_PIXELS:
                raise ValueError(f"{width} x {height} pixels, more than PIL.Image.MAX_IMAGE_PIXELS")
            # A JPEG can be decoded at 1/2, 1/4 or 1/8, many times faster; twice the size keeps the quality.
            opened.draft(None, (2 * size, 2 * size))
            return decode_or_raise(opened, size)
    picture = _rgb(ImageOps.exif_transpose(picture))
    side = min(picture.size)
    left, top = (picture.width - side) / 2, (picture.height - side) / 2
    if side == size:
        picture = picture.crop((int(left), int(top), int(left) + side, int(top) + side))
    else:
        # The square is cut out while resizing: a strip of 1 x 100,000 never becomes one of 32 x 3,200,000.
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


def reason_of(error: Exception) -> str:
    """Why a picture cannot be read, for a message that names it."""
    if isinstance(error, UnidentifiedImageError):
        return "not a picture in a format that Pillow reads"
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
