"""Folders of arrays in the user cache: sealed with a key, memory-mapped, whole or of no use."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from cifarlab.core.errors import ConfigError
from cifarlab.core.plain import Plain

RECORD = "key.json"


class Rows:
    """A .npy file that is written row by row: a full disk raises, where a mapped file ends the process."""

    def __init__(self, path: Path, total: int):
        self._path, self._total = path, total
        self._digest = hashlib.blake2b(digest_size=16)

    def __enter__(self) -> Rows:
        self._file = self._path.open("wb")
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def write(self, rows: np.ndarray) -> None:
        """Append rows (n, ...) of one shape and type."""
        if not self._file.tell():
            shape = (self._total, *rows.shape[1:])
            header = {"descr": rows.dtype.str, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(self._file, header)
        content = np.ascontiguousarray(rows).tobytes()
        self._digest.update(content)
        self._file.write(content)

    def finish(self) -> str:
        """Bring the file to the disk; return the rows' checksum."""
        _to_disk(self._file)
        return self._digest.hexdigest()


@contextmanager
def explain_refusal(what: str, folder: Path, option: tuple[str, ...]) -> Iterator[None]:
    """Turn a disk's refusal into one line that says what to do.

    Args:
        what: What cannot be kept, in words.
        folder: Where it was to be kept.
        option: The keys of the option that turns keeping off.

    Raises:
        ConfigError: The system refused a file, at `option`.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(
            f"cannot keep {what} in {folder} ({reason}); name another place by CIFARLAB_CACHE, or say "
            f"{'.'.join(option)}=false",
            option,
        ) from None


def write_record(folder: Path, record: Mapping[str, Plain]) -> None:
    """Seal a folder of finished arrays. record: plain data with `key` and `checksums` by array."""
    with (folder / RECORD).open("w") as file:
        json.dump({**record, "seal": digest(record)}, file, indent=1)
        _to_disk(file)


def is_sealed(folder: Path) -> bool:
    """Tell whether a folder of arrays was finished; whether it is undamaged, `read_arrays` finds out."""
    return (folder / RECORD).exists()


def read_arrays(
    folder: Path, key: Mapping[str, Plain], names: Iterable[str]
) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
    """Map the arrays of a sealed folder: (arrays by name, its record).

    None where the folder is missing, damaged, or of another key. Every byte is compared with the checksums.
    """
    try:
        record = json.loads((folder / RECORD).read_text())
        seal = record.pop("seal")
        # As text: the order of augmentations counts.
        if (digest(record["key"]), seal) != (digest(key), digest(record)):
            return None
        # Copy on write: torch has no read-only tensors.
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="c") for name in names}
        if {name: checksum(array) for name, array in arrays.items()} != record["checksums"]:
            return None
    except Exception:  # A damaged file raises whatever its reader ran into.
        return None
    return arrays, record


def digest(plain: Any) -> str:
    """Return 32 hex digits of plain data, the order of keys included."""
    return hashlib.blake2b(json.dumps(plain).encode(), digest_size=16).hexdigest()


def checksum(array: np.ndarray) -> str:
    """Return 32 hex digits of an array's bytes."""
    return hashlib.blake2b(np.ascontiguousarray(array).data, digest_size=16).hexdigest()


def _to_disk(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())
