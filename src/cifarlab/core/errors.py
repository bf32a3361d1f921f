"""What goes wrong, said in one line: a user's mistake or a failure."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping

from pydantic import ValidationError


class ConfigError(ValueError):
    """A mistake in a recipe; `path` holds the keys that lead to it, relative to where it was raised."""

    def __init__(self, message: str, path: tuple[str, ...] = ()):
        super().__init__(message)
        self.message, self.path = message, path

    def __str__(self) -> str:
        return f"{'.'.join(self.path)}: {self.message}" if self.path else self.message


class Failure(RuntimeError):
    """Something went wrong that is no mistake of the user's; the message says what, where, and what to do."""


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`did you mean X?` for the nearest of `known`, else the list of them where it is short, else nothing."""
    known = sorted(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]}?"
    return f"known: {', '.join(known)}" if 0 < len(known) <= 20 else ""


def unknown(word: str, known: Iterable[str]) -> str:
    """The message for a name nobody registered or an option nobody takes."""
    hint = did_you_mean(word, known)
    return f"unknown; {hint}" if hint else "unknown"


def explain(error: ValidationError, known: Callable[[tuple[str, ...]], Iterable[str]]) -> ConfigError:
    """Pydantic's first error as one line with the full path of its key.

    `known(path)` gives the keys that exist at `path`, for the nearest right name.
    """
    # A name that is misspelt is missing, too: it is said once, as what it is.
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
