"""Averages of the weights over a run."""

from __future__ import annotations

from typing import Annotated, Any, Protocol

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from cifarlab.core.registries import AVERAGES


class Average(Protocol):
    """What a registered average gives.

    module: a model with the averaged weights; scored once `n_averaged`, the models it has seen, is above 0.
    has_own_statistics: whether the running statistics of its batch norms belong to its weights; if not, it is
    shown an epoch's training pictures before each scoring.
    """

    module: nn.Module
    n_averaged: Tensor
    has_own_statistics: bool

    def is_due(self, done: int, steps_per_epoch: int, total: int) -> bool: ...

    def update_parameters(self, model: nn.Module) -> None: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> object: ...


class ExponentialAverage(AveragedModel):
    """`.module`: the averaged model; `update_parameters(model)` after each step; `state_dict()` holds it all.

    Floating-point buffers are averaged as the weights are: BatchNorm's statistics then belong to the averaged
    weights and not to the last ones. Integer buffers are copied. `AveragedModel`'s own update asks the device
    how many steps it has seen, and so waits for it every step; this one does not, and a captured graph can
    replay it.
    """

    has_own_statistics = True

    def __init__(self, model: nn.Module, decay: float, warmup: bool):
        super().__init__(model, device=next(model.parameters()).device, use_buffers=True)
        self.decay, self.warmup = decay, warmup
        self.module.requires_grad_(False)

    def is_due(self, done: int, steps_per_epoch: int, total: int) -> bool:
        """Whether the model counts after `done` of `total` steps: after each."""
        return True

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Move the average towards the model by 1 - decay, after n updates at least by 9 / (10 + n)."""
        n = self.n_averaged.float()
        decay = ((1 + n) / (10 + n)).clamp(max=self.decay) if self.warmup else torch.full_like(n, self.decay)
        averages: list[Tensor] = []
        values: list[Tensor] = []
        for average, value in zip(_tensors(self.module), _tensors(model), strict=True):
            if average.is_floating_point():
                averages.append(average)
                values.append(value)
            else:
                average.copy_(value)
        changes = torch._foreach_sub(values, averages)  # pyright: ignore[reportPrivateImportUsage]
        torch._foreach_mul_(changes, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]
        torch._foreach_add_(averages, changes)  # pyright: ignore[reportPrivateImportUsage]
        self.n_averaged += 1


class EqualAverage(AveragedModel):
    """The same for the weights at the end of each epoch, from a share of the run on, counted equally.

    Buffers are the model's last. What batch norms have seen does not belong to the averaged weights:
    `has_own_statistics` is false, and whoever scores `.module` shows it the training pictures before.
    """

    has_own_statistics = False

    def __init__(self, model: nn.Module, start: float):
        super().__init__(model, device=next(model.parameters()).device)
        self.start = start
        self.module.requires_grad_(False)

    def is_due(self, done: int, steps_per_epoch: int, total: int) -> bool:
        """Whether the model counts after `done` of `total` steps: where an epoch ends, late enough."""
        return done % steps_per_epoch == 0 and done / total >= self.start


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


@AVERAGES.register
def ema(
    model: nn.Module, *, decay: Annotated[float, Field(ge=0, lt=1)] = 0.999, warmup: bool = True
) -> ExponentialAverage:
    """Exponential moving average of the weights.

    The average moves after every optimizer step. The running statistics of batch norms are averaged as the
    weights are.

    Args:
        decay: Share of the average that a step keeps; the rest comes from the model's weights. The average
            looks back over about 1 / (1 - decay) steps.
        warmup: Whether decay is smaller in the first steps, so that the average forgets the start: after n
            updates it is at most (1 + n) / (10 + n).
    """
    return ExponentialAverage(model, decay, warmup)


@AVERAGES.register
def swa(
    model: nn.Module,
    *,
    start: Annotated[float, Field(ge=0, lt=1, description="share of the run")] = 0.75,
) -> EqualAverage:
    """Equal average of the weights at the end of each epoch (SWA, Izmailov et al. 2018).

    Before the first of these epochs, the model itself is scored. Before each scoring of the average, the
    statistics of its batch norms are estimated anew, from one look at the epoch's training pictures. That
    takes about a third of an epoch's time.

    SWA wants a learning rate that stays high, such as that of the schedule `linear` with a floor.

    Args:
        start: Share of the run. An epoch counts if it ends there or later.
    """
    return EqualAverage(model, start)
