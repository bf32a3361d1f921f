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

    def begin(self, view: int, stop: Callable[[], bool] = ...) -> str | None: ...

    def answer(self, batch: Batch, positions: Tensor) -> Output: ...


class Kept(Protocol):
    """A source of a frozen part's activations, which replace pictures."""

    def batch(self, positions: Tensor, epoch: int) -> Batch: ...

    def clean(self, split: Split) -> Callable[[Tensor], Tensor] | None: ...

    def tail(self, model: torch.nn.Module) -> torch.nn.Module: ...

    def knows(self, model: torch.nn.Module) -> bool: ...


def unobserved(part: str) -> AbstractContextManager[object]:
    """Return a context for a part of a step that measures nothing."""
    return nullcontext()
