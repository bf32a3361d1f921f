"""Averages of a model's weights at several steps of a run."""

from __future__ import annotations

from typing import Annotated, Any, Protocol

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from cifarlab.core.registries import AVERAGES


class Average(Protocol):
    """Interface of the averages of weights that a recipe can choose.

    Attributes:
        module: A model with the averaged weights. It is scored as soon as `n_averaged` is above 0.
        n_averaged: Number of times that weights were added, as a scalar tensor.
        has_own_statistics: Whether the running statistics of the batch norms in `module` suit the averaged
            weights. If not, they are estimated on an epoch's training pictures before each scoring.
    """

    module: nn.Module
    n_averaged: Tensor
    has_own_statistics: bool

    def is_due(self, done: int, steps_per_epoch: int, total: int) -> bool:
        """Tell whether to update the average after `done` of `total` steps."""
        ...

    def update_parameters(self, model: nn.Module) -> None:
        """Add the present weights of `model` to the average."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Return the averaged weights and `n_averaged`."""
        ...

    def load_state_dict(self, state_dict: dict[str, Any]) -> object:
        """Restore a result of `state_dict`."""
        ...


class ExponentialAverage(AveragedModel):
    """An exponential moving average of the weights, updated after each step.

    Floating-point buffers are averaged like the weights, so the running statistics of batch norms suit the
    averaged weights. Integer buffers are copied. The update of torch's `AveragedModel` waits for the device
    at every step, because it reads a counter from the device. This class's update does not wait, and a
    captured graph can replay it.

    Attributes:
        module: The averaged model.
    """

    has_own_statistics = True

    def __init__(self, model: nn.Module, decay: float, warmup: bool):
        super().__init__(model, device=next(model.parameters()).device, use_buffers=True)
        self.decay, self.warmup = decay, warmup
        self.module.requires_grad_(False)

    def is_due(self, done: int, steps_per_epoch: int, total: int) -> bool:  # noqa: ARG002  as `Average`
        """Return True: the average is updated after every step."""
        return True

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Move the average towards the weights of `model`.

        It moves by the share 1 - decay of the difference. With warm-up, the share after n updates is 9 / (10
        + n) if that is larger.
        """
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
    """An equal average of the weights at the ends of a run's last epochs (SWA).

    It begins after the share `start` of the run. Buffers are copied from the model that was added last, so
    the running statistics of batch norms do not suit the averaged weights. `has_own_statistics` is therefore
    False, and the caller estimates the statistics on the training pictures before scoring `module`.
    """

    has_own_statistics = False

    def __init__(self, model: nn.Module, start: float):
        super().__init__(model, device=next(model.parameters()).device)
        self.start = start
        self.module.requires_grad_(False)

    def is_due(self, done: int, steps_per_epoch: int, total: int) -> bool:
        """Tell whether an epoch ends after `done` steps, with `start` reached."""
        return done % steps_per_epoch == 0 and done / total >= self.start


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


@AVERAGES.register
def ema(
    model: nn.Module, *, decay: Annotated[float, Field(ge=0, lt=1)] = 0.999, warmup: bool = True
) -> ExponentialAverage:
    """Exponential moving average of the weights.

    The average moves after every optimizer step. The running statistics of batch norms are averaged like the
    weights.

    Args:
        decay: Share of the average that a step keeps; the rest comes from the model's weights. The average
            looks back over about 1 / (1 - decay) steps.
        warmup: Whether decay is smaller in the first steps, so that the average forgets the initial weights:
            after n updates it is the smaller of `decay` and (1 + n) / (10 + n).
    """
    return ExponentialAverage(model, decay, warmup)


@AVERAGES.register
def swa(
    model: nn.Module,
    *,
    start: Annotated[float, Field(ge=0, lt=1)] = 0.75,
) -> EqualAverage:
    """Equal average of weights at epoch ends (SWA, Izmailov et al. 2018).

    Before the first averaged epoch, the model itself is scored. Before each scoring of the average, the
    statistics of its batch norms are estimated again, in one pass over the epoch's training pictures. That
    takes about a third of an epoch's time.

    SWA needs a learning rate that stays high, such as that of the schedule `linear` with a floor.

    Args:
        start: Share of the run. The weights at the end of an epoch are averaged if this share has passed.
    """
    return EqualAverage(model, start)
