"""cifarlab: train image classifiers on small data."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cifarlab.core.batch import Batch, Output
    from cifarlab.core.errors import ConfigError
    from cifarlab.core.registries import (
        AUGMENTS,
        AVERAGES,
        BACKBONES,
        DATASETS,
        HEADS,
        LOSSES,
        MIXERS,
        OPTIMIZERS,
        SCHEDULES,
        SHARPNESS,
    )
    from cifarlab.runs.model import load

__version__ = "0.1.0"

_REGISTRIES = (
    "AUGMENTS", "AVERAGES", "BACKBONES", "DATASETS", "HEADS", "LOSSES", "MIXERS", "OPTIMIZERS", "SCHEDULES",
    "SHARPNESS",
)  # fmt: skip
# Found on first use: `import cifarlab` and `cifarlab --help` must not wait for torch.
_HOMES = {
    **dict.fromkeys(_REGISTRIES, "core.registries"),
    "ConfigError": "core.errors",
    "load": "runs.model",
    "Batch": "core.batch",
    "Output": "core.batch",
}

__all__ = [
    "AUGMENTS", "AVERAGES", "BACKBONES", "DATASETS", "HEADS", "LOSSES", "MIXERS", "OPTIMIZERS", "SCHEDULES",
    "SHARPNESS", "Batch", "ConfigError", "Output", "load",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"cifarlab.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'cifarlab' has no attribute {name!r}")
