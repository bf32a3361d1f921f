"""An unpickler for the published CIFAR files, which accepts integer arrays and plain containers only."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import numpy as np

from cifarlab.core.errors import ConfigError

# The published files take 31 and 155 MB.
MAX_BYTES = 1 << 30
INTEGERS = ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8")


class _DType:
    """A stand-in for `numpy.dtype` while unpickling."""

    def __init__(self, code: Any, *_: Any):
        self.code, self.order = _text(code).lstrip("|<>="), "|"
        if self.code not in INTEGERS:
            raise pickle.UnpicklingError(f"an array of {self.code[:20]!r}, not of integers")

    def restore(self, state: Any) -> None:
        self.order = _text(state[1])
        if self.order not in ("|", "<", ">", "="):
            raise pickle.UnpicklingError("an unknown byte order")

    def real(self) -> np.dtype[Any]:
        return np.dtype(self.order.replace("|", "<") + self.code)


class _Array:
    """A stand-in for `numpy.ndarray` while unpickling."""

    def __init__(self, *_: Any):
        self.real: np.ndarray | None = None

    def restore(self, state: Any) -> None:
        _, shape, dtype, fortran, raw = state
        if not (isinstance(dtype, _DType) and isinstance(raw, bytes) and isinstance(shape, tuple)):
            raise pickle.UnpicklingError("an array in an unknown form")
        if not all(type(n) is int and n >= 0 for n in shape) or len(shape) > 4:
            raise pickle.UnpicklingError("an array of an impossible shape")
        real = dtype.real()
        if math.prod(shape) * real.itemsize != len(raw):
            raise pickle.UnpicklingError(f"{len(raw)} bytes for an array of shape {shape}")
        self.real = np.frombuffer(raw, real).reshape(shape, order="F" if fortran else "C")


class _NDArray:
    """A stand-in for `numpy.ndarray` as the class that a file passes to `_reconstruct`.

    `_Array`, the stand-in for `_reconstruct`, ignores this argument, so the class is never instantiated.
    """


# The globals that a file may name, and their stand-ins. numpy's own `_reconstruct` and `__setstate__` never
# run: they would allocate any size that the file states, and make arrays of objects. `_codecs.encode` is not
# admitted: only Python 3 writes it, below protocol 3, and the published files come from Python 2.
ADMITTED: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _NDArray,
    ("numpy", "dtype"): _DType,
}
ALLOWED_NAMES = """
    PROTO FRAME STOP MARK NONE NEWTRUE NEWFALSE INT LONG LONG1 BININT BININT1 BININT2
    STRING BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES UNICODE BINUNICODE SHORT_BINUNICODE
    EMPTY_LIST LIST APPEND APPENDS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_DICT DICT SETITEM SETITEMS
    PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET GLOBAL INST STACK_GLOBAL REDUCE BUILD
"""
OPCODES = frozenset(getattr(pickle, name)[0] for name in ALLOWED_NAMES.split())


class RefusedError(pickle.UnpicklingError):
    """The file names a global that is not in `ADMITTED`."""


# Based on Python's unpickler in Python, not the one in C. The one in C makes its memo as long as any index in
# a damaged or hostile file (64 GB for four bytes), and its table of opcodes is fixed. Reading CIFAR-100's
# train takes 0.6 s.
class Unpickler(pickle._Unpickler):
    """An unpickler that accepts only arrays of integers and plain values.

    An array is returned as `_Array`. Plain values are lists, tuples, dicts with string keys, strings,
    numbers, booleans and None.
    """

    stack: list[Any]
    pop_mark: Callable[[], list[Any]]
    load_global: Callable[[], None]
    # Other opcodes are refused: instances, extension codes, persistent ids, buffers.
    dispatch: ClassVar[dict[int, Callable[..., Any]]] = {
        code: handler for code, handler in pickle._Unpickler.dispatch.items() if code in OPCODES
    }

    def find_class(self, module: str, name: str) -> Any:
        """Return the stand-in for a name that is admitted; refuse any other."""
        try:
            return ADMITTED[module, name]
        except KeyError:
            raise RefusedError(f"{module}.{name}") from None

    def persistent_load(self, pid: Any) -> Any:  # noqa: ARG002  as the base class has it
        """Refuse references to objects outside the file."""
        raise RefusedError("a persistent id")

    def load_inst(self) -> None:
        """Refuse instances of old-style classes."""
        self.load_global()
        raise pickle.UnpicklingError("an instance")

    def load_reduce(self) -> None:
        """Call the constructor of an array or of its dtype; refuse any other."""
        arguments, call = self.stack.pop(), self.stack.pop()
        if call is not _Array and call is not _DType:
            raise pickle.UnpicklingError("a call of something other than an array")
        self.stack.append(call(*arguments))

    def load_build(self) -> None:
        """Set the state of an array or of a dtype; refuse any other."""
        state, target = self.stack.pop(), self.stack[-1]
        if not isinstance(target, _Array | _DType):
            raise pickle.UnpicklingError("a state for something other than an array")
        target.restore(state)

    def load_dict(self) -> None:
        """Build a dict from the items on the stack."""
        self._fill({}, self.pop_mark())

    def load_setitem(self) -> None:
        """Put an item into the dict on the stack."""
        value, key = self.stack.pop(), self.stack.pop()
        self._fill(self.stack.pop(), [key, value])

    def load_setitems(self) -> None:
        """Put several items into the dict on the stack."""
        items = self.pop_mark()
        self._fill(self.stack.pop(), items)

    def _fill(self, target: Any, items: list[Any]) -> None:
        # Keys must be strings: hashing a tuple that is nested a million deep overflows the interpreter's
        # stack.
        if type(target) is not dict or not all(type(key) in (bytes, str) for key in items[::2]):
            raise pickle.UnpicklingError("a dict of something other than strings")
        target.update(zip(items[::2], items[1::2], strict=True))
        self.stack.append(target)

    dispatch.update({
        pickle.INST[0]: load_inst, pickle.REDUCE[0]: load_reduce, pickle.BUILD[0]: load_build,
        pickle.DICT[0]: load_dict, pickle.SETITEM[0]: load_setitem, pickle.SETITEMS[0]: load_setitems,
    })  # fmt: skip


# The values that a CIFAR file may hold.
PickledValue: TypeAlias = "int | float | bytes | str | list[PickledValue] | np.ndarray | None"


def read_pickle(path: Path) -> dict[str, PickledValue]:
    """Read the dict of a CIFAR file.

    Nothing that the file names is imported or run.

    Returns:
        Values by key. Keys are str. Arrays are read-only and hold integers. Strings among the values are
            bytes or str, as in the file.

    Raises:
        ConfigError: The file is missing or damaged, or holds something that `Unpickler` refuses. The message
            names the file.
    """
    again = "; remove it to have the published archive unpacked again"
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(f"{path} has {path.stat().st_size:,} bytes: not a CIFAR file", ("data", "root"))
        with path.open("rb") as file:
            content = Unpickler(file, encoding="bytes").load()
        if type(content) is not dict:
            raise pickle.UnpicklingError("no dict")
        return {_text(key): _plain(value) for key, value in content.items()}
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror or error}", ("data", "root")) from None
    except RefusedError as error:
        what = ascii(str(error))[1:-1][:200]
        raise ConfigError(
            f"{path} is refused: it names {what}, but a CIFAR file holds arrays and plain containers only; "
            "nothing of it was run", ("data", "root")) from None  # fmt: skip
    except ConfigError:
        raise
    # Unpickling a damaged file may raise anything: IndexError, KeyError, struct.error, MemoryError, ...
    except Exception as error:
        reason = (
            ascii(str(error))[1:-1][:200]
            if isinstance(error, pickle.UnpicklingError)
            else "its pickle is broken"
        )
        raise ConfigError(f"{path} is damaged or no CIFAR file ({reason}){again}", ("data", "root")) from None


def _text(word: Any) -> str:
    if not isinstance(word, bytes | str):
        raise pickle.UnpicklingError("something other than a string")
    return word.decode("ascii") if isinstance(word, bytes) else word


def _plain(value: Any) -> Any:
    if isinstance(value, _Array):
        if value.real is None:
            raise pickle.UnpicklingError("an array without content")
        return value.real
    return value
