"""Pictures as they are read (`Pictures`), and the splits that a run uses (`Split`, `Splits`)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from cifarlab.config import DataConfig
from cifarlab.core.errors import ConfigError
from cifarlab.core.random import hash_ints, label_key
from cifarlab.data.stratified import choose

PartName = Literal["train", "val", "test"]
PARTS: tuple[PartName, ...] = get_args(PartName)


@dataclass(frozen=True)
class Pictures:
    """One part of a data set (train, val or test), as its reader returns it.

    Attributes:
        images: (N, 3, H, W) uint8, possibly memory-mapped.
        labels: (N,) int64.
        classes: Class names, in the order of the labels.
        digests: (N,) 'V16', a hash of each picture's pixels. It defines the canonical order (`order`), and
            exact duplicates have equal hashes.
        superclasses: Names of the superclasses. Empty if the data set has none.
        superclass_of: For each class, the index of its superclass in `superclasses`. Empty if there are none.
        notes: Remarks to save with the run, one line each.
        warnings: Like `notes`, for problems that the user should act on.
    """

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]
    digests: np.ndarray
    superclasses: tuple[str, ...] = ()
    superclass_of: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    def order(self) -> np.ndarray:
        """Return the indices that sort the pictures by digest, then by label.

        The result is (N,) int64. This canonical order does not depend on the files or their order.
        """
        return np.lexsort(
            (self.labels, *np.ascontiguousarray(self.digests).view(">u8").reshape(-1, 2).T[::-1])
        )

    def fingerprint(self) -> str:
        """Return a hash of all pixels and labels, 32 hex digits.

        It does not depend on the order of the pictures.
        """
        rows = self.order()
        state = hashlib.blake2b(digest_size=16)
        state.update(np.ascontiguousarray(self.digests[rows]).tobytes())
        state.update(self.labels[rows].astype("<i8").tobytes())
        return state.hexdigest()


def digest_pictures(images: np.ndarray) -> np.ndarray:
    """Return a BLAKE2b digest of each picture's bytes and shape, (N,) 'V16'."""
    shape = repr(images.shape[1:]).encode()
    flat = np.ascontiguousarray(images).reshape(len(images), -1)
    digests = b"".join(hashlib.blake2b(row.data, digest_size=16, key=shape).digest() for row in flat)
    return np.frombuffer(digests, dtype="V16")


@dataclass(frozen=True)
class Split:
    """The samples for one purpose: training, validation or test.

    Attributes:
        images: (M, 3, H, W) uint8, may be shared by several splits. On the device, or on the host if they do
            not fit.
        rows: (N,) int64, the index of each sample in `images`, on the same device as `images`.
        labels: (N,) int64, on the device.
        ids: (N,) int64, on the device: each sample's position in the canonical order of its part of the data
            set (`Pictures.order`). A sample's random numbers are keyed by its id.
    """

    images: Tensor
    rows: Tensor
    labels: Tensor
    ids: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def gather(self, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return images, labels and ids of the samples at `positions`.

        Args:
            positions: (B,) int64, from 0 to N - 1. They should be on the device of `rows`: with positions on
                a GPU and images on the host, the host would have to wait for the GPU.

        Returns:
            uint8 images (B, 3, H, W), labels (B,) and ids (B,), on the device of `labels`.
        """
        images = self.images[self.rows[positions.to(self.rows.device)]]
        positions = positions.to(self.labels.device, non_blocking=True)
        return images.to(self.labels.device, non_blocking=True), self.labels[positions], self.ids[positions]

    def first(self, count: int) -> Split:
        """Return a split with the first `count` samples.

        Because samples are ordered by a hash, they are a random subset.
        """
        return Split(self.images, self.rows[:count], self.labels[:count], self.ids[:count])


@dataclass(frozen=True)
class Splits:
    """The splits of a run, and facts about the data set.

    Attributes:
        train: Training pictures.
        val: Validation pictures, or None if there are none.
        test: Test pictures, or None if they were not asked for: data that is not read cannot leak.
        classes: Class names, in the order of the labels.
        superclasses: Names of the superclasses. Empty if the data set has none.
        superclass_of: For each class, the index of its superclass in `superclasses`. Empty if there are none.
        fingerprint: `Pictures.fingerprint()` of each part that was read, by the part's name.
        notes: Remarks to save with the run, one line each.
        warnings: Like `notes`, for problems that the user should act on.
    """

    train: Split
    val: Split | None
    test: Split | None
    classes: tuple[str, ...]
    superclasses: tuple[str, ...]
    superclass_of: tuple[int, ...]
    fingerprint: dict[str, str]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


def read_data(data: DataConfig, part: PartName) -> Pictures | None:
    """Read one part with the data set's reader and check it.

    Returns:
        The pictures, or None if the data set has no such part.

    Raises:
        ConfigError: The part cannot be read, the training part is missing, or images, labels and classes do
            not fit together.
    """
    pictures: Pictures | None = data.dataset.build(data, part)
    if pictures is None and part != "train":
        return None
    if not isinstance(pictures, Pictures):
        found = "None" if pictures is None else type(pictures).__name__
        raise ConfigError(f"{part}: the reader must return Pictures, got {found}", ("data", "dataset"))
    if pictures.images.ndim != 4 or pictures.images.shape[1] != 3 or pictures.images.dtype != np.uint8:
        raise ConfigError(
            f"{part}: pictures must be (N, 3, H, W) uint8, got {pictures.images.shape}", ("data", "dataset")
        )
    low, high = (int(pictures.labels.min()), int(pictures.labels.max())) if len(pictures.labels) else (0, 0)
    if len(pictures.labels) != len(pictures.images) or low < 0 or high >= len(pictures.classes):
        raise ConfigError(
            f"{part}: {len(pictures.images)} pictures, {len(pictures.labels)} labels in {low} to {high}, "
            f"{len(pictures.classes)} classes", ("data", "dataset"))  # fmt: skip
    return pictures


def load_splits(data: DataConfig, seed: int, *, with_test: bool = False) -> Splits:
    """Read the data set and split it.

    Validation pictures come from the data set's own validation part if it has one. Otherwise `seed` selects
    them from the training part.

    Args:
        data: The section `data` of the configuration.
        seed: Seed of the selection of validation pictures, and of the `data.limit` training pictures.
        with_test: Whether to read the test part, too.

    Raises:
        ConfigError: The data cannot be read, has a single class, or is too small for `data.val`, `data.limit`
            or `data.classes`, or the classes differ between the parts.
    """
    source = read_data(data, "train")
    assert source is not None, "every data set has a train part"
    own_val = read_data(data, "val")
    order = source.order()
    labels, digests = source.labels[order], source.digests[order]
    if data.classes is not None and data.classes > len(source.classes):
        raise ConfigError(f"is {data.classes}; there are {len(source.classes)} classes", ("data", "classes"))
    if len(source.classes) < 2:
        raise ConfigError(
            f"has only one class ({', '.join(source.classes)}); give at least two", ("data", "dataset")
        )
    ids = np.flatnonzero(labels < (data.classes or len(source.classes)))
    held_out = np.empty(0, dtype=np.int64)
    count = data.held_out(len(ids))
    if own_val is None and count:
        if count >= len(ids):
            message = f"{count} validation pictures of {len(ids)} leave none to train on; set data.val=0.1"
            raise ConfigError(message, ("data", "val"))
        chosen = choose(labels[ids], digests[ids], ids, count, hash_ints(seed, label_key("val")))
        held_out, ids = ids[chosen], ids[~chosen]
    if data.limit is not None:
        if data.limit > len(ids):
            raise ConfigError(f"is {data.limit}; only {len(ids)} pictures are left", ("data", "limit"))
        ids = ids[choose(labels[ids], ids, ids, data.limit, hash_ints(seed, label_key("limit")))]
    train, val = _share(source, order, (ids, held_out))
    if own_val is not None:
        val = _keep(own_val, data)
    test = read_data(data, "test") if with_test else None
    read_parts = {name: part for name, part in (("train", source), ("val", own_val), ("test", test)) if part}
    for name, part in read_parts.items():
        _refuse_other_classes(name, part.classes, source.classes)
    return Splits(
        train=train,
        val=val if len(val) else None,
        test=_keep(test, data) if test else None,
        classes=source.classes[: data.classes],
        superclasses=source.superclasses,
        superclass_of=source.superclass_of[: data.classes],
        fingerprint={name: part.fingerprint() for name, part in read_parts.items()},
        notes=tuple(dict.fromkeys(note for part in read_parts.values() for note in part.notes)),
        warnings=tuple(dict.fromkeys(line for part in read_parts.values() for line in part.warnings)),
    )


def _refuse_other_classes(part: str, classes: Sequence[str], known: Sequence[str]) -> None:
    """Raise ConfigError if a part's classes differ from `known`, those of train."""
    found = f"has {len(classes)} classes, train has {len(known)}" if len(classes) != len(known) else ""
    for label, (theirs, ours) in enumerate(zip(classes, known, strict=False)):
        if theirs != ours and not found:
            found = f"calls class {label} {theirs!r}, train {ours!r}"
    if found:
        fix = "the reader must give all parts the same classes, in the same order"
        raise ConfigError(f"{part} {found}; {fix}", ("data", "dataset"))


def load_test(data: DataConfig) -> tuple[Split, Pictures]:
    """Read the test part alone.

    Returns:
        The test split, and the pictures as they were read.

    Raises:
        ConfigError: The data set has no test part.
    """
    pictures = read_data(data, "test")
    if pictures is None:
        raise ConfigError("this data set has no test part", ("data", "dataset"))
    return _keep(pictures, data), pictures


def _share(source: Pictures, order: np.ndarray, parts: tuple[np.ndarray, ...]) -> tuple[Split, ...]:
    """Return splits of one part that share an image tensor.

    `parts` holds the ids of each split, see `Split`. `order` is `source.order()`: the sample with id i is row
    order[i] of `source`. Images are copied only if at most half of them are used.
    """
    used = np.sort(np.concatenate(parts))
    rows = order[used]
    if 2 * len(used) > len(order):
        images = torch.from_numpy(source.images)
    else:
        images = torch.from_numpy(np.ascontiguousarray(source.images[rows]))
        rows = np.arange(len(used))
    row_of = dict(zip(used.tolist(), rows.tolist(), strict=True))
    return tuple(
        Split(
            images,
            torch.tensor([row_of[i] for i in ids.tolist()], dtype=torch.int64),
            torch.from_numpy(source.labels[order[ids]].astype(np.int64)),
            torch.from_numpy(ids),
        )
        for ids in parts
    )


def _keep(source: Pictures, data: DataConfig) -> Split:
    """Return a split with all pictures of the first `data.classes` classes."""
    order = source.order()
    ids = np.flatnonzero(source.labels[order] < (data.classes or len(source.classes)))
    return _share(source, order, (ids,))[0]
