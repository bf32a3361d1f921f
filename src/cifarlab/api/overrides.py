"""Overrides of a recipe's options as Python values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from cifarlab.core.errors import ConfigError
from cifarlab.core.plain import Plain


def override_texts(overrides: Mapping[str, Plain] | None) -> list[str]:
    """Return overrides in the command line's form, e.g. `train.epochs=20`.

    Args:
        overrides: Values by the path of the option: {"train.epochs": 20}.

    Raises:
        ConfigError: A value, or a value within one, is not plain data: None, a bool, a number, a string, a
            path, a sequence or a mapping.
    """
    # JSON is YAML, too.
    return [
        f"{key}={json.dumps(_plain(value, tuple(key.split('.'))), ensure_ascii=False)}"
        for key, value in (overrides or {}).items()
    ]


def _plain(value: object, path: tuple[str, ...]) -> Plain:
    """Return a value as plain data, with each `Path` as a string.

    Raises:
        ConfigError: The value is not plain data. The error names `path`, the path of the option.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, list | tuple):
        return [_plain(item, (*path, str(i))) for i, item in enumerate(value)]
    if not isinstance(value, Mapping):
        raise ConfigError(f"expected plain data, got {_kind(value)}", path)
    for key in value:
        if not isinstance(key, str | int):
            raise ConfigError(f"expected a name as key, got {_kind(key)}", path)
    return {str(key): _plain(item, (*path, str(key))) for key, item in value.items()}


def _kind(value: object) -> str:
    module = type(value).__module__
    return ("" if module == "builtins" else f"{module}.") + type(value).__qualname__
