"""Overrides of a recipe's options as Python values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cifarlab.core.errors import ConfigError


def override_texts(overrides: Mapping[str, Any] | None) -> list[str]:
    """Return overrides in the command line's form, e.g. `train.epochs=20`.

    Raises:
        ConfigError: A value is not plain data.
    """
    return [_text(key, value) for key, value in (overrides or {}).items()]


def _text(key: str, value: Any) -> str:
    # JSON is YAML, too.
    try:
        return f"{key}={json.dumps(value, default=_path, ensure_ascii=False)}"
    except TypeError:
        raise ConfigError(f"expected plain data, got {type(value).__name__}", tuple(key.split("."))) from None


def _path(value: object) -> str:
    if isinstance(value, Path):
        return str(value)
    raise TypeError
