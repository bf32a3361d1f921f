"""Arrays in the user cache, which are read as memory maps.

A folder of arrays also holds a record. The record has a key, which says what the arrays were computed from,
and checksums of the arrays. Arrays are used only if the key and the checksums match.
"""

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
    """A .npy file that is written row by row, inside a `with` block.

    Writing to a full disk raises an error. With a memory-mapped file, it would kill the process.

    Args:
        path: Path of the file.
        total: Number of rows that will be written.
    """

    def __init__(self, path: Path, total: int):
        self._path, self._total = path, total
        self._digest = hashlib.blake2b(digest_size=16)

    def __enter__(self) -> Rows:
        self._file = self._path.open("wb")
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def write(self, rows: np.ndarray) -> None:
        """Append rows (n, ...), which must all have one shape and type."""
        if not self._file.tell():
            shape = (self._total, *rows.shape[1:])
            header = {"descr": rows.dtype.str, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(self._file, header)
        content = np.ascontiguousarray(rows).tobytes()
        self._digest.update(content)
        self._file.write(content)

    def finish(self) -> str:
        """Flush the file to disk and return the `checksum` of the array."""
        _to_disk(self._file)
        return self._digest.hexdigest()


@contextmanager
def explain_refusal(what: str, folder: Path, option: tuple[str, ...]) -> Iterator[None]:
    """Turn an OSError of the `with` block into a ConfigError.

    Args:
        what: Description of what is written, for the message.
        folder: The folder that it is written to.
        option: Path of the option that turns this cache off, such as ("teacher", "cache").

    Raises:
        ConfigError: A file cannot be written. The error has the path `option`.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(
            f"cannot store {what} in {folder} ({reason}); set CIFARLAB_CACHE to another folder, or set "
            f"{'.'.join(option)}=false",
            option,
        ) from None


def write_record(folder: Path, record: Mapping[str, Plain]) -> None:
    """Write the record of a folder, which marks its arrays as complete.

    Args:
        folder: The folder of the arrays.
        record: JSON-compatible values. It must have the entries `key` and `checksums` (by array name). A
            digest of the record is written with it.
    """
    with (folder / RECORD).open("w") as file:
        json.dump({**record, "seal": digest(record)}, file, indent=1)
        _to_disk(file)


def is_sealed(folder: Path) -> bool:
    """Tell whether a folder has a record, see `write_record`.

    The arrays are not checked for damage; `read_arrays` does that.
    """
    return (folder / RECORD).exists()


def read_arrays(
    folder: Path, key: Mapping[str, Plain], names: Iterable[str]
) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
    """Memory-map the arrays of a folder and verify their checksums.

    Args:
        folder: The folder of the arrays.
        key: The key that the record must have.
        names: Names of the arrays.

    Returns:
        (arrays by name, record), or None if the folder is missing, incomplete or damaged, or has another key.
    """
    try:
        record = json.loads((folder / RECORD).read_text())
        seal = record.pop("seal")
        # Digests of the text, not a comparison of dicts: the order of keys counts, as augmentations are
        # ordered.
        if (digest(record["key"]), seal) != (digest(key), digest(record)):
            return None
        # Mode "c", copy on write: torch has no read-only tensors.
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="c") for name in names}
        if {name: checksum(array) for name, array in arrays.items()} != record["checksums"]:
            return None
    except Exception:  # The reader of a damaged file may raise any exception.
        return None
    return arrays, record


def digest(plain: Any) -> str:
    """Return a hash of a JSON-compatible value, 32 hex digits.

    It depends on the order of the keys of mappings.
    """
    return hashlib.blake2b(json.dumps(plain).encode(), digest_size=16).hexdigest()


def checksum(array: np.ndarray) -> str:
    """Return a hash of an array's bytes, 32 hex digits."""
    return hashlib.blake2b(np.ascontiguousarray(array).data, digest_size=16).hexdigest()


def _to_disk(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())
