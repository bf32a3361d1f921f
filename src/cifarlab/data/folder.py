"""Image folders with one sub-folder per class, decoded once to a cached, memory-mapped array."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cifarlab.core.device import num_cores
from cifarlab.core.errors import ConfigError
from cifarlab.data.cache import building, cache_folder, cannot_write, locked, progress
from cifarlab.data.decoding import decode_or_raise, picture_fault, suffixes
from cifarlab.data.splits import PartName, Pictures, digest_pictures

# Increase this number when `decode` gives other pixels for a file: older caches are then rebuilt.
STORE_VERSION = 1
FILES_AT_ONCE = 2048


@dataclass(frozen=True)
class Listing:
    """The picture files of one part (train, val or test).

    Attributes:
        folder: Folder of the part.
        classes: Class names, in the order of the labels.
        files: Path of each file, relative to `folder`.
        labels: Label of each file, (N,) int64.
        digest: Hash of the names, sizes and modification times of all files.
    """

    folder: Path
    classes: tuple[str, ...]
    files: tuple[str, ...]
    labels: np.ndarray
    digest: str


def read_folder(root: str | None, part: PartName, size: int, *, skip_broken: bool = False) -> Pictures | None:
    """Read one part of an image folder, decoded to one size.

    "train" is `train/<class>/*`. "test" is `test/` if it exists, else `val/`. "val" is `val/`, but only if
    `test/` exists too. Files are searched at any depth below a class folder. Hidden files and files without
    the suffix of a picture format are skipped.

    The decoded images are cached, and memory-mapped (copy on write). They are decoded again when the name,
    size or modification time of any file changes.

    Args:
        root: The option `data.root`.
        part: "train", "val" or "test".
        size: Side of the decoded images in pixels.
        skip_broken: Leave out files that cannot be read, with a note, instead of raising.

    Returns:
        The pictures, or None if the folder has no such part.

    Raises:
        ConfigError: The folder has another layout, the classes differ between the parts, a class is empty, or
            a file cannot be read (unless `skip_broken`).
    """
    if root is None:
        raise ConfigError(
            "missing; give the folder that holds train/<class>/* and val/ or test/", ("data", "root")
        )
    base = Path(root).expanduser().resolve()
    if not base.is_dir():
        raise ConfigError(f"{root} is not a folder", ("data", "root"))
    parts = {name: base / name for name in ("train", "val", "test") if (base / name).is_dir()}
    if "train" not in parts:
        raise ConfigError(f"{root} holds no train/ folder; expected {root}/train/<class>/*", ("data", "root"))
    if part == "test":
        folder = parts.get("test") or parts.get("val")
    else:
        folder = parts.get(part) if part == "train" or "test" in parts else None
    if folder is None:
        return None
    try:
        classes = _classes(parts)
        listing = list_pictures(folder, classes)
    except OSError as error:
        raise ConfigError(f"cannot list {error.filename}: {error.strerror}", ("data", "root")) from None
    images, labels, digests, broken = _cached(listing, size)
    if broken and not skip_broken:
        name, reason = broken[0]
        more = f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
        raise ConfigError(f"cannot read {folder / name}: {reason}{more}; repair or remove it, or set "
                          "data.skip_broken=true", ("data", "root"))  # fmt: skip
    notes = (f"{folder}: {len(broken)} of {len(listing.files)} files cannot be read and were left out, "
             f"first {broken[0][0]}",) if broken else ()  # fmt: skip
    return Pictures(images, labels, classes, digests, notes=notes)


def _classes(parts: dict[str, Path]) -> tuple[str, ...]:
    """Return the sorted class names, which all parts must share.

    `parts` holds the folder of each part, by name.
    """
    found = {
        part: {entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")}
        for part, folder in parts.items()
    }
    if not found["train"]:
        raise ConfigError(
            f"{parts['train']} holds no class folders; expected train/<class>/*", ("data", "root")
        )
    for part, names in found.items():
        for extra, lacking in ((part, "train"), ("train", part)):
            if difference := sorted(found[extra] - found[lacking]):
                few = ", ".join(difference[:5]) + (", ..." if len(difference) > 5 else "")
                message = f"{len(difference)} classes of {extra}/ are not in {lacking}/: {few}"
                hint = f"; {part}/ must hold a folder for each class" if not names else ""
                raise ConfigError(f"{parts['train'].parent}: {message}{hint}", ("data", "root"))
    return tuple(sorted(found["train"]))


def list_pictures(folder: Path, classes: tuple[str, ...]) -> Listing:
    """List the picture files below all class folders, sorted by path.

    Raises:
        ConfigError: A class folder holds no pictures.
    """
    state = hashlib.blake2b(digest_size=16)
    files, labels = [], []
    for label, name in enumerate(classes):
        found = sorted(_walk(folder / name, name, frozenset()))
        if not found:
            raise ConfigError(f"{folder / name} holds no pictures", ("data", "root"))
        for path, size, changed in found:
            state.update(os.fsencode(path) + f"\0{size}\0{changed}\0".encode())
            files.append(path)
            labels.append(label)
    return Listing(folder, classes, tuple(files), np.array(labels, dtype=np.int64), state.hexdigest())


def _walk(folder: Path, relative: str, above: frozenset[tuple[int, int]]) -> Iterator[tuple[str, int, int]]:
    """Yield (path, bytes, modification time in ns) of a folder's picture files.

    Args:
        folder: The folder to search, at any depth.
        relative: Path of `folder` relative to the folder of the part. All yielded paths begin with it.
        above: (device, inode) of each parent folder, to detect links back to one of them.
    """
    status = folder.stat()
    here = (status.st_dev, status.st_ino)
    if here in above:  # a link to a parent folder
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            path = f"{relative}/{entry.name}"
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from _walk(folder / entry.name, path, above | {here})
            elif os.path.splitext(entry.name)[1].lower() in suffixes():  # noqa: PTH122  (a million of them)
                # A dangling link is listed, so that it is reported as unreadable. Pipes and devices are
                # skipped.
                dangling = entry.is_symlink() and not os.path.exists(entry.path)  # noqa: PTH110
                if dangling or entry.is_file():
                    status = entry.stat(follow_symlinks=not dangling)
                    yield path, status.st_size, status.st_mtime_ns


Cached = tuple[np.ndarray, np.ndarray, np.ndarray, list[list[str]]]


def _cached(listing: Listing, size: int) -> Cached:
    """Return images, labels, digests and unreadable files, from the cache.

    If they are not cached, the files are decoded first. An unreadable file is a list [file, reason].
    """
    key = hashlib.blake2b(os.fsencode(listing.folder), digest_size=6).hexdigest()
    parent, part = listing.folder.parent.name[:40], listing.folder.name
    target = cache_folder("folders") / f"{parent}-{part}-{size}-{key}"
    with locked(target):
        cached = _open(target, listing, size)
        if cached is None:
            try:
                with building(target) as fresh:
                    _build(fresh, listing, size)
            except OSError as error:
                raise cannot_write(target, error) from None
            cached = _open(target, listing, size)
            assert cached is not None, "what was just written can be opened"
    return cached


def _open(target: Path, listing: Listing, size: int) -> Cached | None:
    """Open the cache entry `target`; return None if absent, damaged or outdated."""
    try:
        meta = json.loads((target / "meta.json").read_text())
        # Copy on write, because torch warns about read-only arrays. Nothing ever writes to them.
        images = np.load(target / "images.npy", mmap_mode="c")
        labels, digests = np.load(target / "labels.npy"), np.load(target / "digests.npy")
        broken = meta["broken"]
        count = len(listing.files) - len(broken)
        if meta["version"] != STORE_VERSION or meta["listing"] != listing.digest:
            return None
        if images.shape != (count, 3, size, size) or len(labels) != count or len(digests) != count:
            return None
        # An unreadable file may become readable with the same size and time (permissions, a drive that
        # returned), so try again.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if any(_try(listing.folder / name, size)[0] is not None for name, _ in broken):
                return None
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None
    return images, labels, digests.view("V16").reshape(-1), broken


def _try(path: Path, size: int) -> tuple[np.ndarray | None, str]:
    try:
        return decode_or_raise(path, size), ""
    # Pillow's decoders may raise anything on damaged files: OSError, SyntaxError, struct.error, IndexError,
    # ...
    except Exception as error:
        return None, picture_fault(error)


def _build(folder: Path, listing: Listing, size: int) -> None:
    """Decode all files of a listing into a new cache entry, `folder`."""
    count = len(listing.files)
    need, free = count * 3 * size * size, shutil.disk_usage(folder).free
    if need > free:  # writing to a memory map without room kills the process
        raise OSError(
            errno.ENOSPC, f"{count:,} pictures need {need / 1e9:.1f} GB, {free / 1e9:.1f} GB are free"
        )
    images: Any = np.lib.format.open_memmap(folder / "images.npy", "w+", np.uint8, (count, 3, size, size))
    digests = np.zeros((count, 16), np.uint8)
    reasons = [""] * count

    def work(row: int) -> None:
        picture, reasons[row] = _try(listing.folder / listing.files[row], size)
        if picture is not None:
            images[row] = picture
            digests[row] = digest_pictures(picture[None]).view(np.uint8)

    # Threads suffice: Pillow and hashlib release the interpreter's lock during their slow parts.
    title = f"decoding {count:,} pictures of {listing.folder} at {size} x {size}, once"
    with progress(title) as report, warnings.catch_warnings(), ThreadPoolExecutor(num_cores()) as pool:
        warnings.simplefilter("ignore")
        for start in range(0, count, FILES_AT_ONCE):
            rows = range(start, min(start + FILES_AT_ONCE, count))
            for _ in pool.map(work, rows):
                pass
            report(rows.stop, count)
    good = np.array([not reason for reason in reasons])
    if not good.any():
        first = f"{listing.files[0]}: {reasons[0]}"
        raise ConfigError(
            f"none of {count} files below {listing.folder} can be read ({first})", ("data", "root")
        )
    images.flush()
    if not good.all():
        _keep(folder / "images.npy", np.flatnonzero(good))
    np.save(folder / "labels.npy", listing.labels[good])
    np.save(folder / "digests.npy", digests[good])
    broken = [[name, reason] for name, reason in zip(listing.files, reasons, strict=True) if reason]
    meta = {"version": STORE_VERSION, "listing": listing.digest, "broken": broken}
    (folder / "meta.json").write_text(json.dumps(meta))


def _keep(path: Path, rows: np.ndarray) -> None:
    """Rewrite the array in a .npy file with only the rows at the indices `rows`."""
    old: Any = np.load(path, mmap_mode="r")
    kept: Any = np.lib.format.open_memmap(
        path.with_name("kept.npy"), "w+", np.uint8, (len(rows), *old.shape[1:])
    )
    for start in range(0, len(rows), FILES_AT_ONCE):
        kept[start : start + FILES_AT_ONCE] = old[rows[start : start + FILES_AT_ONCE]]
    kept.flush()
    path.with_name("kept.npy").replace(path)
