"""Files of weights: what kind a file is by its first bytes, and its content."""

from __future__ import annotations

import hashlib
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cifarlab.core.errors import ConfigError, reason_of
from cifarlab.models.stand_ins import SAVE_WEIGHTS, read_torch_file

_CUT_OFF = "is cut off or damaged; copy or download it again"
_ZIP = b"PK"
# How torch.save's files began until PyTorch 1.6: a magic number, pickled.
_OLD_TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
# The first bytes of files of other kinds: (what it is, what to do).
_OTHER_KINDS = {
    b"version https://git-lfs": (
        "a pointer of Git LFS, not the file",
        "run `git lfs pull` in its repository",
    ),
    b"\x89HDF\r\n\x1a\n": ("an HDF5 file, as Keras writes it", "convert it to a PyTorch state dict"),
    b"GGUF": ("a GGUF file", "convert it to safetensors"),
    b"\x93NUMPY": ("a numpy array", "save a state dict with torch.save"),
    b"\x1f\x8b": ("a gzip archive", "unpack it, and name the file in it"),
    b"BZh": ("a bzip2 archive", "unpack it, and name the file in it"),
    b"\xfd7zXZ": ("an xz archive", "unpack it, and name the file in it"),
    b"\x28\xb5\x2f\xfd": ("a zstd archive", "unpack it, and name the file in it"),
}
# The start of ONNX's protocol buffer: the version of the format, then the producer or the graph.
_ONNX = re.compile(rb"\x08[\x01-\x1f][\x12\x1a\x3a\x42]")


@dataclass(frozen=True)
class WeightFile:
    """The content of a file of weights.

    Attributes:
        content: Tensors and plain containers. Any other object is a stand-in without code.
        sha256: SHA-256 of the file.
        unread: Names of the classes and functions whose objects are stand-ins.
    """

    content: Any
    sha256: str
    unread: tuple[str, ...] = ()


def read_weight_file(path: Path) -> WeightFile:
    """Read a safetensors file or a file of torch.save, recognised by its content.

    Raises:
        ConfigError: The file is missing, cut off or of another kind. The message says which, and what to do.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: {'a folder, not a file' if path.is_dir() else 'no such file'}")
    try:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            file.seek(0)
            head = file.read(1024)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({reason_of(error)})") from None
    if problem := _other_kind(head, path.suffix):
        raise ConfigError(f"{path}: {problem}")
    try:
        if head[8:9] == b"{":
            from safetensors.torch import load_file

            return WeightFile(load_file(path), sha256)
        if head.startswith(_ZIP):
            _refuse_other_zip(path)
        content, unread = read_torch_file(path)
        return WeightFile(content, sha256, unread)
    except ConfigError:
        raise
    except MemoryError:
        raise ConfigError(f"{path}: the memory of this machine cannot hold it") from None
    except Exception:  # a broken file may raise zip, pickle, struct, key or other errors
        # Its message is not shown: torch's may suggest weights_only=False, which runs code of the file.
        raise ConfigError(f"{path}: {_CUT_OFF}") from None


def _other_kind(head: bytes, ending: str) -> str | None:
    """Return what a file is, and what to do, unless it may hold weights."""
    if not head:
        return "is empty; copy or download it again"
    for start, (kind, advice) in _OTHER_KINDS.items():
        if head.startswith(start):
            return f"is {kind}; {advice}"
    if head.startswith(_ZIP) or head.startswith(_OLD_TORCH) or (head[8:9] == b"{" and b"\0" in head[:8]):
        return None
    if len(head) < 9:
        return _CUT_OFF
    if ending == ".onnx" or _ONNX.match(head):
        return f"is an ONNX file; {SAVE_WEIGHTS}"
    if head[4:8] == b"TFL3":
        return "is a TensorFlow Lite file; convert it to a PyTorch state dict"
    if head[257:262] == b"ustar":
        return "is a tar archive; unpack it, and name the file in it"
    if re.match(rb"\x80[\2-\5]", head):
        return f"is a pickle that torch.save did not write; {SAVE_WEIGHTS}"
    words = head.decode("utf-8", errors="ignore").lower()
    if len(words.encode()) >= len(head) - 3 and "\0" not in words:
        if "<html" in words or "<!doctype html" in words:
            return "is an HTML page, so a download has failed; download the file again"
        return "is a text file; name a safetensors file or a file of torch.save"
    return "is of an unknown kind; name a safetensors file or a file of torch.save"


def _refuse_other_zip(path: Path) -> None:
    """Refuse a zip archive that torch.save did not write.

    Raises:
        ConfigError: The message says what it is.
        BadZipFile: The archive is cut off.
    """
    with zipfile.ZipFile(path) as archive:
        names = [name.rpartition("/")[2] for name in archive.namelist()]
        if "constants.pkl" in names:
            kind = f"is a TorchScript archive (torch.jit.save), which holds a program; {SAVE_WEIGHTS}"
        elif "archive_format" in names or "serialized_exported_program.json" in names:
            kind = f"is an archive of torch.export, which holds a program; {SAVE_WEIGHTS}"
        elif "data.pkl" in names:
            return
        elif "model.weights.h5" in names:
            kind = "is a Keras file; convert it to a PyTorch state dict"
        else:
            kind = "is a zip archive without weights of PyTorch; unpack it, or name another file"
        raise ConfigError(f"{path}: {kind}")
