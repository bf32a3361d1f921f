"""Reading of torch.save's files, with stand-ins for objects whose code would run.

Nothing that a file names is imported or called.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import re
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np
import torch
from torch import Tensor

from cifarlab.core.errors import ConfigError

SAVE_WEIGHTS = "where the model was made, run torch.save(model.state_dict(), 'weights.pt')"
# torch refuses these modules even as names of stand-ins.
_SYSTEM = re.compile(r"(sys|os|posix|nt)\.")


def read_torch_file(path: Path) -> tuple[Any, tuple[str, ...]]:
    """Return the content of a file of torch.save, and the names of what is a stand-in there.

    torch's own reader of weights refuses a file that asks for any other class or function. In a second
    attempt each of these is replaced by a class of this module, so that nothing is imported or called.

    Raises:
        ConfigError: The file cannot be read without running code in it.
        Exception: Of any type, if the file is damaged.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of another pickle protocol
        try:
            return _load(path), ()
        except pickle.UnpicklingError:
            asked, protocol = _asked_for(path)
        if system := sorted(filter(_SYSTEM.match, asked)):
            words = f"asks to run {printable(system[0])}, which weights do not need; do not trust it"
            raise ConfigError(f"{path}: {words}")
        used: set[str] = set()
        for base in (_Mapping, _Record):
            stand_ins: Any = [
                (_NUMPY.get(name) or type(base.__name__, (base,), {"name": name, "used": used}), name)
                for name in asked
            ]
            try:
                with torch.serialization.safe_globals(stand_ins):
                    return _load(path), tuple(sorted(used))
            except (pickle.UnpicklingError, TypeError, ValueError, AttributeError):
                continue
    # Before PyTorch 1.6 a module was pickled with its source code, which torch's reader refuses.
    if any(name.startswith("torch.nn.modules.") for name in asked):
        own = next(name for name in asked if not name.startswith(("torch._utils.", "collections.")))
        raise ConfigError(f"{path}: holds a whole model ({printable(own)}), not its weights; {SAVE_WEIGHTS}")
    which = f"objects ({printable(min(used))})" if used else "objects"
    which += f", pickled with protocol {protocol}," if protocol != 2 else ""
    raise ConfigError(f"{path}: holds {which} that cannot be read without running code; {SAVE_WEIGHTS}")


def _load(path: Path) -> Any:
    with path.open("rb") as file:  # given a path, torch may go by its ending
        return torch.load(file, map_location="cpu", weights_only=True)


def _asked_for(path: Path) -> tuple[list[str], int]:
    """Return the names of all classes and functions that a file of torch.save asks for, and its protocol."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            place = next(name for name in archive.namelist() if name.rpartition("/")[2] == "data.pkl")
            return _globals_in(io.BytesIO(archive.read(place)), pickles=1)
    with path.open("rb") as file:  # a magic number, a version, facts about the system, the content
        return _globals_in(file, pickles=4)


def _globals_in(file: BinaryIO, *, pickles: int) -> tuple[list[str], int]:
    names: dict[str, None] = {}  # in their order
    protocol = 2
    for _ in range(pickles):
        for opcode, argument, _ in pickletools.genops(file):
            if opcode.name == "GLOBAL":
                module, _, name = str(argument).partition(" ")
                # Python 2's names of two modules, which protocol 2 keeps
                module = {"__builtin__": "builtins", "copy_reg": "copyreg"}.get(module, module)
                names[f"{module}.{name}"] = None
            elif opcode.name == "PROTO":
                protocol = int(argument or 0)
    return [*names], protocol


class _Mapping:
    """A stand-in for classes and functions: what they would return is a dictionary.

    So subclasses of dict can be read, too: torch's reader fills dictionaries of built-in types only.
    """

    name = ""
    used: ClassVar[set[str]] = set()

    def __new__(cls, *_: object) -> Any:
        cls.used.add(cls.name)
        found: Any = OrderedDict()
        found.stands_for = cls.name
        return found


class _Record:
    """A stand-in whose objects keep only the attributes that they would have."""

    name = ""
    used: ClassVar[set[str]] = set()

    def __new__(cls, *_: object) -> Any:
        cls.used.add(cls.name)
        found = object.__new__(cls)
        found.__dict__["stands_for"] = cls.name
        return found

    def __setstate__(self, state: object) -> None:
        if isinstance(state, dict):
            self.__dict__.update(state)


class _NumpyType:
    """A stand-in for numpy's dtype: its code, e.g. `f4`, and its byte order."""

    def __init__(self, code: object, *_: object):
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.order = state[1]


class StoredArray:
    """A stand-in for a numpy array: what the file says of it."""

    def __init__(self, *_: object):
        self.state: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state

    def tensor(self) -> Tensor | None:
        """Return its numbers, or None if it holds anything else."""
        try:
            _, shape, kind, is_fortran, content = self.state
            code = f"{kind.order.replace('|', '=')}{kind.code}"
            if not re.fullmatch(r"[<>=]([fiu][1248]|b1)", code):
                return None
            array = np.frombuffer(content, code).reshape(shape, order="F" if is_fortran else "C")
            return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), order="C"))
        except (AttributeError, TypeError, ValueError):
            return None


_NUMPY = {
    "numpy.dtype": _NumpyType,
    "numpy.ndarray": StoredArray,
    "numpy.core.multiarray._reconstruct": StoredArray,
    "numpy._core.multiarray._reconstruct": StoredArray,
}


def stands_for(content: object) -> str | None:
    """Return the class or function of a stand-in; None for anything else."""
    name = getattr(content, "__dict__", {}).get("stands_for")
    return None if name is None else printable(str(name))


def is_module(content: object) -> bool:
    """Tell whether `content` stands for a whole pickled model."""
    return {"_modules", "_parameters"} <= getattr(content, "__dict__", {}).keys()


def printable(name: str) -> str:
    """Return a name from a file for a message, printable and not too long."""
    safe = name if name.isprintable() else ascii(name)[1:-1]
    return safe if len(safe) <= 200 else f"{safe[:60]} (of {len(safe)} characters)"
