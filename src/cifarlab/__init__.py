"""cifarlab: train image classifiers on small data."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cifarlab.api.compare import compare
    from cifarlab.api.train import train
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
    from cifarlab.evaluation.predict import predict
    from cifarlab.evaluation.score import evaluate
    from cifarlab.evaluation.score_records import Scores
    from cifarlab.experiments.records import Comparison
    from cifarlab.models.prediction import Prediction
    from cifarlab.runs.folder import Run
    from cifarlab.runs.model import load

__version__ = "0.1.0"

__all__ = [
    "AUGMENTS", "AVERAGES", "BACKBONES", "DATASETS", "HEADS", "LOSSES", "MIXERS", "OPTIMIZERS", "SCHEDULES",
    "SHARPNESS", "Batch", "Comparison", "ConfigError", "Output", "Prediction", "Run", "Scores", "compare",
    "evaluate", "load", "predict", "train",
]  # fmt: skip
# Found on first use: `import cifarlab` and `cifarlab --help` must not wait for torch. All else is a registry.
_HOMES = {
    "Batch": "core.batch",
    "Comparison": "experiments.records",
    "ConfigError": "core.errors",
    "Output": "core.batch",
    "Prediction": "models.prediction",
    "Run": "runs.folder",
    "Scores": "evaluation.score_records",
    "compare": "api.compare",
    "evaluate": "evaluation.score",
    "load": "runs.model",
    "predict": "evaluation.predict",
    "train": "api.train",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'cifarlab' has no attribute {name!r}")
    return getattr(importlib.import_module(f"cifarlab.{_HOMES.get(name, 'core.registries')}"), name)
