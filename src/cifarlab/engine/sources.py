"""Interfaces of two optional inputs of a training step: a teacher's outputs and stored activations."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

import torch
from torch import Tensor

from cifarlab.core.batch import Batch, Output
from cifarlab.data.splits import Split


class Source(Protocol):
    """Interface of a source of a teacher's outputs for training batches.

    A view is one augmented version of every training picture.
    """

    def begin(self, view: int, stop: Callable[[], bool] = ...) -> str | None:
        """Prepare a view's outputs; return a message if any were computed.

        Args:
            view: Number of the view: an epoch, as `view_epoch` returns it.
            stop: Called regularly. The work is interrupted when it returns True.
        """
        ...

    def answer(self, batch: Batch, positions: Tensor) -> Output:
        """Return the teacher's output for a batch.

        `positions` (B,) are those of the batch's samples in the training split.
        """
        ...


class ActivationSource(Protocol):
    """Interface of stored activations of a network's frozen part, used in place of pictures."""

    def batch(self, positions: Tensor, epoch: int) -> Batch:
        """Return the training batch at `positions` (B,), with activations replacing pictures."""
        ...

    def clean(self, split: Split) -> Callable[[Tensor], Tensor] | None:
        """Return a function from positions (B,) to activations of pictures without augmentation.

        Returns None if there are none for the split.
        """
        ...

    def tail(self, model: torch.nn.Module) -> torch.nn.Module:
        """Return the part of a model that takes the activations as input."""
        ...

    def knows(self, model: torch.nn.Module) -> bool:
        """Tell whether the activations are valid for a model.

        They are valid if the model's frozen part has the weights that they were computed with.
        """
        ...


def unobserved(_part: str) -> AbstractContextManager[object]:
    """Return a context that does nothing.

    It is the default of `Engine.span`, the context around each named part of a training step. A profiler
    replaces `Engine.span` to measure times.
    """
    return nullcontext()
