"""Averages of the weights over a run."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from cifarlab.registry import AVERAGES


class ExponentialAverage(AveragedModel):
    """`.module`: the averaged model; `update_parameters(model)` after each step; `state_dict()` holds it all.

    Floating-point buffers are averaged as the weights are: BatchNorm's statistics then belong to the averaged
    weights and not to the last ones. Integer buffers are copied. `AveragedModel`'s own update asks the device
    how many steps it has seen, and so waits for it every step; this one does not, and a captured graph can
    replay it.
    """

    def __init__(self, model: nn.Module, decay: float, warmup: bool):
        super().__init__(model, device=next(model.parameters()).device, use_buffers=True)
        self.decay, self.warmup = decay, warmup
        self.module.requires_grad_(False)

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


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


@AVERAGES.register
def ema(
    model: nn.Module, *, decay: Annotated[float, Field(ge=0, lt=1)] = 0.999, warmup: bool = True
) -> ExponentialAverage:
    """Exponential moving average; warmup: a smaller decay in the first steps, which forgets the start."""
    return ExponentialAverage(model, decay, warmup)
