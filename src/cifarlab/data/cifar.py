"""CIFAR-10 and CIFAR-100, read from the published Python archives or from copies of their files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from cifarlab.core.errors import ConfigError
from cifarlab.data.archives import Archive, md5_of
from cifarlab.data.download import locate
from cifarlab.data.pickles import PickledValue, read_pickle
from cifarlab.data.splits import PartName, Pictures, digest_pictures

SIZE = 32
CIFAR100 = Archive(
    "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
    "eb9058c3a382ffc7106e4002c42a8d85", "cifar-100-python", ("train", "test", "meta"),
)  # fmt: skip
# `Pictures.fingerprint()` of the published pictures and labels. It does not depend on the packaging.
CIFAR100_FINGERPRINTS = {
    "train": "6915653b0198406eac5f39a66a45f7b5",
    "test": "7d8c08a20ebe80125e8b450c0ae59458",
}
# The md5 sums of the published files. Another packaging of the same pictures has other sums.
CIFAR10_SUMS = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
    "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
}
CIFAR10 = Archive(
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    "c58f30108f718f92721af3b95e74349a", "cifar-10-batches-py", tuple(CIFAR10_SUMS),
)  # fmt: skip


def read_cifar100(root: str | None, part: PartName, *, store_size: int | None = None) -> Pictures | None:
    """Read one part of CIFAR-100; return None for "val".

    The files are found or downloaded by `locate`. If pictures or labels differ from the published ones, the
    result has a warning. `Pictures.digests` are those of the pictures before resizing, so that `store_size`
    changes neither order nor splits.

    Args:
        root: The option `data.root`.
        part: "train", "val" or "test".
        store_size: Side in pixels to which pictures are resized. None: 32, as published.

    Raises:
        ConfigError: A file cannot be read or holds something else. The message names it.
    """
    if part == "val":
        return None
    folder = locate(CIFAR100, root)
    meta, path = read_pickle(folder / "meta"), folder / part
    classes = _names(meta, "fine_label_names", 100, folder / "meta")
    superclasses = _names(meta, "coarse_label_names", 20, folder / "meta")
    content = read_pickle(path)
    images = _images(content, path)
    fine = _labels(content, "fine_labels", len(classes), len(images), path)
    coarse = _labels(content, "coarse_labels", len(superclasses), len(images), path)
    pairs = np.unique(np.stack([fine, coarse]), axis=1)
    superclass_of = np.full(len(classes), -1)
    superclass_of[pairs[0]] = pairs[1]
    if pairs.shape[1] != len(classes) or (superclass_of < 0).any():
        raise ConfigError(f"{path}: each class must have exactly one superclass", ("data", "root"))
    pictures = Pictures(
        images, fine, classes, digest_pictures(images), superclasses, tuple(int(s) for s in superclass_of)
    )
    found, expected = pictures.fingerprint(), CIFAR100_FINGERPRINTS[part]
    warnings: tuple[str, ...] = ()
    if found != expected:
        warnings = (
            f"{path} is not the {part} part of the published CIFAR-100 (fingerprint {found}, "
            f"expected {expected}): accuracies cannot be compared with published ones",
        )
    return _finish(pictures, store_size, warnings)


def read_cifar10(root: str | None, part: PartName, *, store_size: int | None = None) -> Pictures | None:
    """Read one part of CIFAR-10; return None for "val".

    The arguments are those of `read_cifar100`. The result has a warning if the md5 sum of a file differs from
    the published one. That may be so even if the pictures are equal, for example in files saved again.

    Raises:
        ConfigError: A file cannot be read or holds something else. The message names it.
    """
    if part == "val":
        return None
    folder = locate(CIFAR10, root)
    classes = _names(read_pickle(folder / "batches.meta"), "label_names", 10, folder / "batches.meta")
    start = "data_batch" if part == "train" else "test_batch"
    names = [name for name in CIFAR10_SUMS if name.startswith(start)]
    images, labels = [], []
    for name in names:
        content = read_pickle(folder / name)
        images.append(_images(content, folder / name))
        labels.append(_labels(content, "labels", len(classes), len(images[-1]), folder / name))
    altered = [name for name in (*names, "batches.meta") if md5_of(folder / name) != CIFAR10_SUMS[name]]
    warnings: tuple[str, ...] = ()
    if altered:
        warnings = (
            f"{folder}: {', '.join(altered)}: not the published CIFAR-10 files by md5, or packed again: "
            "accuracies may not be comparable with published ones",
        )
    stacked = np.concatenate(images)
    pictures = Pictures(stacked, np.concatenate(labels), classes, digest_pictures(stacked))
    return _finish(pictures, store_size, warnings)


def _finish(pictures: Pictures, store_size: int | None, warnings: tuple[str, ...]) -> Pictures:
    images = pictures.images if store_size in (None, SIZE) else resize_pictures(pictures.images, store_size)
    return replace(pictures, images=images, warnings=warnings)


def resize_pictures(images: np.ndarray, size: int) -> np.ndarray:
    """Resize pictures (bicubic, antialiased).

    (N, 3, H, W) uint8 to (N, 3, size, size) uint8.
    """
    resized = np.empty((len(images), 3, size, size), np.uint8)
    for start in range(0, len(images), 1000):
        block = torch.from_numpy(images[start : start + 1000]).float()
        block = F.interpolate(block, (size, size), mode="bicubic", antialias=True)
        resized[start : start + 1000] = block.round_().clamp_(0, 255).byte().numpy()
    return resized


def _get(content: dict[str, PickledValue], key: str, path: Path) -> Any:
    if key not in content:
        raise ConfigError(f"{path} has no {key!r}: not a file of this data set", ("data", "root"))
    return content[key]


def _names(meta: dict[str, PickledValue], key: str, count: int, path: Path) -> tuple[str, ...]:
    names = _get(meta, key, path)
    strings = type(names) is list and all(type(name) in (bytes, str) for name in names)
    if not strings or len(names) != count:
        raise ConfigError(f"{path}: {key} must be a list of {count} names", ("data", "root"))
    return tuple(name.decode("utf-8", "replace") if isinstance(name, bytes) else name for name in names)


def _images(content: dict[str, PickledValue], path: Path) -> np.ndarray:
    images = _get(content, "data", path)
    array = isinstance(images, np.ndarray)
    if not array or images.dtype != np.uint8 or images.shape[1:] != (3 * SIZE * SIZE,):
        shape = f"{images.shape} {images.dtype}" if array else type(images).__name__
        raise ConfigError(f"{path}: data must be (N, 3072) uint8, got {shape}", ("data", "root"))
    if not len(images):
        raise ConfigError(f"{path} holds no pictures", ("data", "root"))
    # A writable copy: torch warns about read-only arrays.
    return np.array(images, order="C").reshape(-1, 3, SIZE, SIZE)


def _labels(content: dict[str, PickledValue], key: str, classes: int, count: int, path: Path) -> np.ndarray:
    labels = _get(content, key, path)
    if isinstance(labels, np.ndarray):
        labels = labels.tolist()
    integers = type(labels) is list and all(type(label) is int for label in labels)
    if not integers or len(labels) != count:
        raise ConfigError(f"{path}: {key} must be {count} integers, one per picture", ("data", "root"))
    if not all(0 <= label < classes for label in labels):
        wrong = next(label for label in labels if not 0 <= label < classes)
        raise ConfigError(f"{path}: {key} holds {wrong}, outside 0 to {classes - 1}", ("data", "root"))
    return np.array(labels, dtype=np.int64)
