"""What a step may be given from elsewhere: answers of a teacher, kept activations."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch
from torch import Tensor

from cifarlab.core.batch import Batch, Output
from cifarlab.data.splits import Split


class Source(Protocol):
    """Whoever gives a teacher's output for the views of a batch."""

    def begin(self, view: int, stop: Callable[[], bool] = ...) -> str | None: ...

    def answer(self, batch: Batch, positions: Tensor) -> Output: ...


class Kept(Protocol):
    """Whoever gives the activations of a frozen part in place of pictures."""

    def batch(self, positions: Tensor, epoch: int) -> Batch: ...

    def clean(self, split: Split) -> Callable[[Tensor], Tensor] | None: ...

    def tail(self, model: torch.nn.Module) -> torch.nn.Module: ...

    def knows(self, model: torch.nn.Module) -> bool: ...


def unobserved(part: str) -> AbstractContextManager[object]:
    """The span of a part of a step that nobody takes the time of."""
    return nullcontext()
