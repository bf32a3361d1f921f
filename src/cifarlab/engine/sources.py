"""Interfaces of optional inputs of a step: a teacher's outputs, and kept activations."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch
from torch import Tensor

from cifarlab.core.batch import Batch, Output
from cifarlab.data.splits import Split


class Source(Protocol):
    """A source of a teacher's outputs for the views of a batch."""

    def begin(self, view: int, stop: Callable[[], bool] = ...) -> str | None:
        """Prepare a view's outputs; return a progress message if computed, else None."""
        ...

    def answer(self, batch: Batch, positions: Tensor) -> Output:
        """Return the outputs for the samples at `positions` (B,) of the split."""
        ...


class ActivationSource(Protocol):
    """A source of a frozen part's activations, which replace pictures."""

    def batch(self, positions: Tensor, epoch: int) -> Batch:
        """Return a training batch with activations in place of pictures."""
        ...

    def clean(self, split: Split) -> Callable[[Tensor], Tensor] | None:
        """Return a function from positions (B,) to clean activations, or None."""
        ...

    def tail(self, model: torch.nn.Module) -> torch.nn.Module:
        """Return the part of a model that follows the frozen part."""
        ...

    def knows(self, model: torch.nn.Module) -> bool:
        """Tell whether a model's frozen part equals the one that computed the activations."""
        ...


def unobserved(_part: str) -> AbstractContextManager[object]:
    """Return a context that measures nothing, for a part of a step."""
    return nullcontext()
