"""The registered data sets, which `data.dataset` names."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from cifarlab.config import DataConfig
from cifarlab.core.registries import DATASETS
from cifarlab.data import synthetic as drawing
from cifarlab.data.cache import building, cache_folder, cannot_write, locked
from cifarlab.data.cifar import read_cifar10, read_cifar100
from cifarlab.data.folder import read_folder
from cifarlab.data.splits import PartName, Pictures, digest_pictures

# Drawing this much takes less than two seconds on one core, so it is not cached.
DRAW_ANEW_BYTES = 4000 * 3 * 32 * 32


@DATASETS.register(split_as_published=True)
def cifar100(data: DataConfig, part: PartName) -> Pictures | None:
    """CIFAR-100: 60,000 photographs of 100 classes in 20 superclasses.

    50,000 are for training and 10,000 for testing, at 32 pixels a side. The published archive is downloaded
    if it is not found.
    """
    return read_cifar100(data.root, part, store_size=data.store_size)


@DATASETS.register(split_as_published=True)
def cifar10(data: DataConfig, part: PartName) -> Pictures | None:
    """CIFAR-10: 60,000 photographs of 10 classes.

    50,000 are for training and 10,000 for testing, at 32 pixels a side. The published archive is downloaded
    if it is not found.
    """
    return read_cifar10(data.root, part, store_size=data.store_size)


@DATASETS.register
def folder(data: DataConfig, part: PartName) -> Pictures | None:
    """Your own pictures, in one folder per class.

    `data.root` holds train/<class>/* and, in the same form, val/ or test/, or both. If there is only one of
    the two, it is the test set, and validation pictures are held out of train/. Files are searched at any
    depth below a class folder. Hidden files and files without the suffix of a picture format are skipped.

    The middle square of each picture is kept, resized to `data.store_size`. Decoded pictures are cached. They
    are decoded again when the name, size or modification time of a file changes.

    Raises:
        ConfigError: If the folder has another layout, the classes differ between the parts, a class is empty,
            or, unless `data.skip_broken`, a file cannot be read.
    """
    return read_folder(data.root, part, kept_size(data), skip_broken=data.skip_broken)


@DATASETS.register
def synthetic(
    data: DataConfig,
    part: PartName,
    *,
    train: Annotated[int, Field(ge=1)] = 10_000,
    test: Annotated[int, Field(ge=1)] = 2_000,
    seed: Annotated[int, Field(ge=0)] = 0,
) -> Pictures | None:
    """Pictures drawn by the program: 100 classes in 20 superclasses, no download.

    A class is a combination of shape, texture and color. A superclass is a shape. Picture i shows class i
    modulo 100. The pictures depend on the option `seed` of this data set and not on `train.seed`. At another
    size the scenes are the same and the noise differs.

    Args:
        train: Number of training pictures.
        test: Number of test pictures.
        seed: Another seed draws other pictures.
    """
    if part == "val":
        return None
    images = draw_once({"train": train, "test": test}[part], kept_size(data), seed, part)
    labels = synthetic_labels(len(images))
    return Pictures(images, labels, drawing.CLASSES, digest_pictures(images), drawing.SUPERCLASSES,
                    drawing.SUPERCLASS_OF)  # fmt: skip


def synthetic_labels(num: int) -> np.ndarray:
    """Return the labels of `num` synthetic pictures, (num,) int64."""
    return np.arange(num, dtype=np.int64) % len(drawing.CLASSES)


def kept_size(data: DataConfig) -> int:
    """Return the side, in pixels, at which pictures are stored.

    This is `data.store_size`, or by default the largest size at which the run uses them.
    """
    return data.store_size or max(data.image_size, *data.train_sizes)


def draw_once(num: int, size: int, seed: int, split: str) -> np.ndarray:
    """Draw pictures of the synthetic set; cache a large set.

    The arguments are those of `cifarlab.data.synthetic.draw`. Cached pictures are memory-mapped.

    Returns:
        (num, 3, size, size) uint8.
    """
    if num * 3 * size * size <= DRAW_ANEW_BYTES:
        return drawing.draw(num, size=size, seed=seed, split=split)[0]
    # The key includes the source of the drawing code, because other code draws other pictures.
    code = hashlib.blake2b(Path(drawing.__file__).read_bytes(), digest_size=6).hexdigest()
    target = cache_folder("synthetic") / f"{split}-{num}-{size}-{seed}-{code}"
    with locked(target):
        try:
            return _open(target, (num, 3, size, size))
        except (OSError, ValueError, EOFError):
            pass
        try:
            with building(target) as fresh:
                np.save(fresh / "images.npy", drawing.draw(num, size=size, seed=seed, split=split)[0])
        except OSError as error:
            raise cannot_write(target, error) from None
        return _open(target, (num, 3, size, size))


def _open(target: Path, shape: tuple[int, ...]) -> np.ndarray:
    images = np.load(target / "images.npy", mmap_mode="c")
    if images.shape != shape or images.dtype != np.uint8:
        raise ValueError("other pictures")
    return images
