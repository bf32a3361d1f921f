"""Image folders: one sub-folder a class, decoded once to a cached, memory-mapped array."""

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
from cifarlab.data.decoding import decode_or_raise, reason_of, suffixes
from cifarlab.data.splits import PartName, Pictures, digest_pictures

# Raised whenever `decode` makes other pixels of a file, so that older caches are made anew.
STORE_VERSION = 1
FILES_AT_ONCE = 2048


@dataclass(frozen=True)
class Listing:
    """The pictures of one part: paths below `folder`, their labels, a digest of names, sizes and times."""

    folder: Path
    classes: tuple[str, ...]
    files: tuple[str, ...]
    labels: np.ndarray
    digest: str


def read_folder(root: str | None, part: PartName, size: int, *, skip_broken: bool = False) -> Pictures | None:
    """One part of `root`: `train/<class>/*`, and `val/` or `test/` alike, decoded to `size` pixels a side.

    "test" is `test/`, else `val/`; "val" is `val/` where there is a `test/` too; None where there is no such
    folder. Files are looked for at any depth below a class; hidden ones and those with no picture's suffix
    are passed over. images is memory-mapped, copy on write, from a cache that is made anew when any file's
    name, size or time changes.

    Raises ConfigError for a folder of another form, classes that differ between parts, an empty class, and,
    unless `skip_broken`, for a file that cannot be read.
    """
    if root is None:
        raise ConfigError(
            "missing: the folder that holds train/<class>/* and val/ or test/", ("data", "root")
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
        raise ConfigError(f"cannot read {folder / name}: {reason}{more}; mend or remove it, or say "
                          "data.skip_broken=true", ("data", "root"))  # fmt: skip
    notes = (f"{folder}: {len(broken)} of {len(listing.files)} files cannot be read and were left out, "
             f"first {broken[0][0]}",) if broken else ()  # fmt: skip
    return Pictures(images, labels, classes, digests, notes=notes)


def _classes(parts: dict[str, Path]) -> tuple[str, ...]:
    """The names of the class folders, sorted; the same in every part."""
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
                hint = f"; {part}/ must hold a folder a class" if not names else ""
                raise ConfigError(f"{parts['train'].parent}: {message}{hint}", ("data", "root"))
    return tuple(sorted(found["train"]))


def list_pictures(folder: Path, classes: tuple[str, ...]) -> Listing:
    """Every picture file below the class folders, sorted. Raises ConfigError for a class without one."""
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
    status = folder.stat()
    here = (status.st_dev, status.st_ino)
    if here in above:  # a link back up
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            path = f"{relative}/{entry.name}"
            if entry.name.startswith("."):
                continue
            if entry.is_dir():
                yield from _walk(folder / entry.name, path, above | {here})
            elif os.path.splitext(entry.name)[1].lower() in suffixes():  # noqa: PTH122  (a million of them)
                # A link to nothing is listed, and then cannot be read; a pipe or device is passed over.
                dangling = entry.is_symlink() and not os.path.exists(entry.path)  # noqa: PTH110
                if dangling or entry.is_file():
                    status = entry.stat(follow_symlinks=not dangling)
                    yield path, status.st_size, status.st_mtime_ns


Cached = tuple[np.ndarray, np.ndarray, np.ndarray, list[list[str]]]


def _cached(listing: Listing, size: int) -> Cached:
    """images, labels, digests, and [file, reason] of those that cannot be read; decoded if need be."""
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
    """What lies at `target`; None where that is nothing, damaged, or made of other files."""
    try:
        meta = json.loads((target / "meta.json").read_text())
        # Copy on write, for torch warns about arrays that it must not write to; nothing ever writes.
        images = np.load(target / "images.npy", mmap_mode="c")
        labels, digests = np.load(target / "labels.npy"), np.load(target / "digests.npy")
        broken = meta["broken"]
        count = len(listing.files) - len(broken)
        if meta["version"] != STORE_VERSION or meta["listing"] != listing.digest:
            return None
        if images.shape != (count, 3, size, size) or len(labels) != count or len(digests) != count:
            return None
        # Files that became readable (rights, a drive that is back) keep their size and time.
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
    # Pillow's decoders raise anything on damaged files: OSError, SyntaxError, struct.error, IndexError, ...
    except Exception as error:
        return None, reason_of(error)


def _build(folder: Path, listing: Listing, size: int) -> None:
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

    # Threads: Pillow and hashlib release the interpreter's lock in all that takes time.
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
        _drop(folder / "images.npy", np.flatnonzero(good))
    np.save(folder / "labels.npy", listing.labels[good])
    np.save(folder / "digests.npy", digests[good])
    broken = [[name, reason] for name, reason in zip(listing.files, reasons, strict=True) if reason]
    meta = {"version": STORE_VERSION, "listing": listing.digest, "broken": broken}
    (folder / "meta.json").write_text(json.dumps(meta))


def _drop(path: Path, rows: np.ndarray) -> None:
    """Keep only `rows` of the array in a file."""
    old: Any = np.load(path, mmap_mode="r")
    kept: Any = np.lib.format.open_memmap(
        path.with_name("kept.npy"), "w+", np.uint8, (len(rows), *old.shape[1:])
    )
    for start in range(0, len(rows), FILES_AT_ONCE):
        kept[start : start + FILES_AT_ONCE] = old[rows[start : start + FILES_AT_ONCE]]
    kept.flush()
    path.with_name("kept.npy").replace(path)
