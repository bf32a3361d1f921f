"""Types of the engine's state, which a run saves in `last.pt`."""

from __future__ import annotations

from typing import Any, TypedDict

from torch import Tensor


class MeansState(TypedDict):
    """The state of `Means`: weighted sums by name, and the sum of the weights."""

    sums: dict[str, Tensor]
    weight: Tensor


class EngineState(TypedDict):
    """The state dicts of the engine's parts. `average` is None if no weights are averaged."""

    model: dict[str, Tensor]
    objective: dict[str, Tensor]
    optimizer: dict[str, Any]
    scaler: dict[str, Any]
    average: dict[str, Any] | None
    means: MeansState
