"""Errors that commands print without a traceback, and helpers for their messages."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping

from pydantic import ValidationError
from pydantic_core import ErrorDetails

_COLOR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_DECIMAL_COMMA = re.compile(r"[-+]?\d*,\d+(?:[eE][-+]?\d+)?")


class ConfigError(ValueError):
    """A user's mistake, for example in a recipe.

    Attributes:
        message: The message without the path.
        path: Keys that lead to the wrong option, relative to the section or part whose code raised the error.
            Empty if no option is to blame.
    """

    def __init__(self, message: str, path: tuple[str, ...] = ()):
        super().__init__(message)
        self.message, self.path = message, path

    def __str__(self) -> str:
        return f"{'.'.join(self.path)}: {self.message}" if self.path else self.message


class Failure(RuntimeError):
    """An expected error that is not the user's mistake, e.g. a full disk. Its message says what to do."""


def reason_of(error: BaseException, *, limit: int = 160) -> str:
    """Return the reason of an exception in one line, never empty.

    It is the system's message of an OSError, else the first line of `str(error)`, else the name of the type.
    If the line ends with a colon, the next one is appended. Control characters and codes of colors are left
    out.

    Args:
        error: The exception.
        limit: Largest number of characters. A longer text is cut after a word.
    """
    text = (error.strerror if isinstance(error, OSError) else None) or str(error)
    lines = [" ".join(line.split()) for line in _COLOR.sub("", text).splitlines() if line.strip()]
    count = next((place for place, line in enumerate(lines, 1) if not line.endswith(":")), len(lines))
    reason = " ".join(lines[:count]) or type(error).__name__
    reason = "".join(letter for letter in reason if letter.isprintable())
    if len(reason) <= limit:
        return reason
    start = reason[: limit - 3]
    return f"{start.rpartition(' ')[0] or start}..."


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return a hint for a misspelt name.

    Returns:
        `did you mean X?` if one of `known` is similar. Else the list of `known` if it has at most 20 entries.
        Else an empty string.
    """
    known = sorted(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]}?"
    return f"known: {', '.join(known)}" if 0 < len(known) <= 20 else ""


def unknown(word: str, known: Iterable[str]) -> str:
    """Return the message for an unknown name or option, e.g. `unknown; did you mean lr?`."""
    hint = did_you_mean(word, known)
    return f"unknown; {hint}" if hint else "unknown"


def explain(error: ValidationError, known: Callable[[tuple[str, ...]], Iterable[str]]) -> ConfigError:
    """Convert pydantic's first error to a ConfigError with the full path.

    Args:
        error: The error that a pydantic model raised.
        known: Takes a path; returns the valid keys there, one of which is suggested for a misspelt key.
    """
    # A misspelt key gives two errors, `extra_forbidden` and `missing`. Only the first one helps.
    errors = sorted(error.errors(), key=lambda entry: entry["type"] != "extra_forbidden")
    first, alternatives = _without_choices(errors)
    path = tuple(str(part) for part in first["loc"])
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, ConfigError):
        return ConfigError(cause.message, (*path, *cause.path))
    if first["type"] == "extra_forbidden":
        return ConfigError(unknown(path[-1], known(path[:-1])), path)
    if first["type"] == "model_type":
        return ConfigError(f"expected `key: value` options, got {first.get('input')!r}", path)
    if first["type"] == "missing":
        return ConfigError("missing, and it has no default", path)
    given = first.get("input")
    shown = "" if isinstance(given, Mapping) else f" (got {_brief(given)})"
    return ConfigError(" or ".join(alternatives) + shown + _comma_hint(first), path)


def _comma_hint(entry: ErrorDetails) -> str:
    """Return a hint if a decimal comma is the likely reason of pydantic's error, else an empty text."""
    given = entry.get("input")
    if isinstance(given, str) and _DECIMAL_COMMA.fullmatch(given):
        return f"; write {given.replace(',', '.')}: decimals have a point"
    if entry["type"] == "invalid_key" and isinstance(given, int):
        # {epochs: 3,5} is a mapping with two keys, epochs and 5.
        return "; in {...} a comma begins a new key: decimals have a point"
    return ""


# pydantic's names of the choices of a union, e.g. `bool`, `literal['auto']`, `tuple[int, int]`.
_CHOICE = re.compile(r"none|bool|int|float|str|bytes|(?:constrained|is)-\w+|[a-z-]+\[.*\]")


def _without_choices(errors: list[ErrorDetails]) -> tuple[ErrorDetails, list[str]]:
    """Return the error to report, and descriptions of the allowed values.

    If a value fits no type of a union, pydantic reports an error for each type and adds the name of the type
    to its location. These names are not keys of the configuration, so they are removed.
    """
    first = errors[0]
    for depth, part in enumerate(first["loc"]):
        among = [each for each in errors if each["loc"][:depth] == first["loc"][:depth]]
        if not (isinstance(part, str) and _CHOICE.fullmatch(part)) or any(
            len(each["loc"]) == depth for each in among
        ):
            continue
        if len({each["loc"][depth] for each in among}) > 1:
            # The choice that was meant is the one whose outer type fits.
            inner = [each for each in among if len(each["loc"]) > depth + 1]
            best = inner[0] if inner else first
            location = (*first["loc"][:depth], *best["loc"][depth + 1 :])
            words = [_expected(each) for each in inner[:1] or among]
            later = [word.removeprefix("input should be ") for word in words[1:]]
            return {**best, "loc": location}, list(dict.fromkeys([*words[:1], *later]))
    return first, [_expected(first)]


def _expected(entry: ErrorDetails) -> str:
    """Shorten pydantic's message and begin it with a lower-case letter."""
    message = entry["msg"].removeprefix("Value error, ").partition(", unable to")[0]
    return message[:1].lower() + message[1:]


def _brief(value: object) -> str:
    """Return a value's repr in one line of at most 100 characters."""
    text = " ".join(repr(value).splitlines())
    return text if len(text) <= 100 else f"{text[:97]}..."
