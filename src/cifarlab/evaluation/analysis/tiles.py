"""The PNG file with an analysis's hardest pictures and most confident errors.

It lies beside `analysis.json`. From it, the report shows these pictures without the data set and the model.
Each of the two kinds of pictures fills one row of the PNG.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from cifarlab.core.errors import ConfigError
from cifarlab.core.files import write_atomically
from cifarlab.data.splits import Split
from cifarlab.evaluation.analysis.records import PictureRow

# Number of pictures of each kind, and maximum side length in pixels. One page must hold those of thirty runs.
TILES_SHOWN = 12
LARGEST = 40


def pictures_path(analysis: Path) -> Path:
    """Return the path of the PNG that belongs to an analysis file."""
    return analysis.with_name(f"{analysis.stem}_pictures.png")


def picture_at(pictures: Split, position: int) -> np.ndarray:
    """Return a split's picture (H, W, 3) uint8 by its position."""
    return pictures.images[pictures.rows[position]].permute(1, 2, 0).cpu().numpy()


def write_tiles(kinds: Sequence[Sequence[PictureRow]], pictures: Split, path: Path) -> Path:
    """Write a PNG with one row of square pictures for each kind.

    Args:
        kinds: The pictures of each kind, as the analysis records them. The first TILES_SHOWN of a kind are
            written.
        pictures: The split that was analyzed, from which the pictures are taken.
        path: Path of the PNG.

    Returns:
        `path`.
    """
    rows = [kind[:TILES_SHOWN] for kind in kinds]
    side = min(LARGEST, *pictures.images.shape[-2:])
    sheet = Image.new("RGB", (side * max(map(len, rows)), side * len(rows)))
    for i, row in enumerate(rows):
        for j, each in enumerate(row):
            picture = Image.fromarray(picture_at(pictures, each.position))
            if picture.size != (side, side):
                picture = picture.resize((side, side), Image.Resampling.LANCZOS)
            sheet.paste(picture, (j * side, i * side))
    write_atomically(path, lambda file: sheet.save(file, "PNG", optimize=True))
    return path


def read_tiles(path: Path, counts: Sequence[int]) -> list[list[Image.Image]]:
    """Read the pictures that `write_tiles` wrote.

    Args:
        path: Path of the PNG.
        counts: Number of pictures of each kind that `write_tiles` was given.

    Returns:
        The pictures of each kind, at most TILES_SHOWN of each.

    Raises:
        ConfigError: The file cannot be read, or is not the PNG of this analysis.
    """
    counts = [min(count, TILES_SHOWN) for count in counts]
    try:
        with Image.open(path, formats=["PNG"]) as file:
            sheet = file.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ConfigError(f"{path}: cannot be read: {str(error).partition(chr(10))[0]}") from None
    side = sheet.height // len(counts)
    if side > LARGEST or sheet.size != (side * max(counts), side * len(counts)):
        raise ConfigError(f"{path}: cannot be read: not the pictures of the analysis beside it")
    return [
        [sheet.crop((j * side, i * side, (j + 1) * side, (i + 1) * side)) for j in range(count)]
        for i, count in enumerate(counts)
    ]
