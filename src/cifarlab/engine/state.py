"""What of an engine outlives a stop: its share of `last.pt`."""

from __future__ import annotations

from typing import Any, TypedDict

from torch import Tensor


class MeansState(TypedDict):
    """Running means: weighted sums by name, and the sum of the weights."""

    sums: dict[str, Tensor]
    weight: Tensor


class EngineState(TypedDict):
    """State dicts of the parts of an engine."""

    model: dict[str, Tensor]
    objective: dict[str, Tensor]
    optimizer: dict[str, Any]
    scaler: dict[str, Any]
    average: dict[str, Any] | None
    means: MeansState
