"""Errors that are printed in one line: `ConfigError` (user's mistake) and `Failure`."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping

from pydantic import ValidationError


class ConfigError(ValueError):
    """A user's mistake, for example in a recipe.

    Attributes:
        message: The message without the path.
        path: Keys that lead to the wrong option, relative to where the error was raised. May be empty.
    """

    def __init__(self, message: str, path: tuple[str, ...] = ()):
        super().__init__(message)
        self.message, self.path = message, path

    def __str__(self) -> str:
        return f"{'.'.join(self.path)}: {self.message}" if self.path else self.message


class Failure(RuntimeError):
    """An error that is not the user's mistake. Its message says what happened, where, and what to do."""


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
    """Return the message for an unknown name or option, with a hint."""
    hint = did_you_mean(word, known)
    return f"unknown; {hint}" if hint else "unknown"


def explain(error: ValidationError, known: Callable[[tuple[str, ...]], Iterable[str]]) -> ConfigError:
    """Convert pydantic's first error to a ConfigError with the full path.

    Args:
        error: The error of a validation.
        known: Returns the keys that exist at a path. They are suggested for a misspelt key.
    """
    # A misspelt key gives two errors, `extra_forbidden` and `missing`. Only the first one helps.
    first = min(error.errors(), key=lambda entry: entry["type"] != "extra_forbidden")
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
    shown = "" if isinstance(given, Mapping) else f" (got {given!r})"
    message = first["msg"].removeprefix("Value error, ")
    return ConfigError(message[:1].lower() + message[1:] + shown, path)
