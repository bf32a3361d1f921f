"""The state of an engine that `last.pt` saves."""

from __future__ import annotations

from typing import Any, TypedDict

from torch import Tensor


class MeansState(TypedDict):
    """The running means: weighted sums by name, and the total weight."""

    sums: dict[str, Tensor]
    weight: Tensor


class EngineState(TypedDict):
    """The state dicts of the parts of an engine."""

    model: dict[str, Tensor]
    objective: dict[str, Tensor]
    optimizer: dict[str, Any]
    scaler: dict[str, Any]
    average: dict[str, Any] | None
    means: MeansState
