"""Running means of an epoch's losses and accuracy, kept on the device."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from cifarlab.core.batch import Batch, Output
from cifarlab.engine.state import MeansState


class Means:
    """Weighted means of scalars, summed on the device.

    Only reading a result waits for the device. The first step with a value that is not finite is recorded, so
    that a diverged run can be stopped without waiting for the device after each step.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self._sums: dict[str, Tensor] = {}
        self._weight = torch.zeros((), dtype=torch.float64, device=device)
        self._bad_step = torch.full((), -1, dtype=torch.int64, device=device)

    def reset(self) -> None:
        """Set all sums to 0, in place because graphs use these tensors."""
        for tensor in (self._weight, *self._sums.values()):
            tensor.zero_()
        self._bad_step.fill_(-1)

    def add(self, values: Mapping[str, Tensor], weight: int, step: int | Tensor) -> None:
        """Add a batch's mean values, weighted by its number of samples.

        The values are also checked by `watch`.
        """
        self._weight += weight
        for key, value in values.items():
            weighted = value.detach().double() * weight
            if key in self._sums:
                self._sums[key] += weighted
            else:
                self._sums[key] = weighted
        self.watch(values.values(), step)

    def watch(self, values: Iterable[Tensor], step: int | Tensor) -> None:
        """Record `step` if it is the first with a non-finite value."""
        finite = torch.stack([value.detach().float() for value in values]).isfinite().all()
        self._bad_step.copy_(torch.where((self._bad_step < 0) & ~finite, step, self._bad_step))

    def read(self) -> dict[str, float]:
        """Return the means since the last reset; this waits for the device."""
        weight, *sums = torch.stack([self._weight, *self._sums.values()]).tolist()
        return dict(zip(self._sums, (total / weight for total in sums), strict=True)) if weight else {}

    def first_bad_step(self) -> int | None:
        """Return the first step with a value that is not finite.

        Returns None if there is none. This waits for the device.
        """
        step = int(self._bad_step)
        return step if step >= 0 else None

    def state_dict(self) -> MeansState:
        """Return the sums and the total weight."""
        return {"sums": self._sums, "weight": self._weight}

    def load_state_dict(self, state: MeansState) -> None:
        """Restore a result of `state_dict`."""
        self._sums = {key: value.to(self.device, copy=True) for key, value in state["sums"].items()}
        self._weight.copy_(torch.as_tensor(state["weight"]))


def batch_accuracy(batch: Batch, output: Output) -> Tensor:
    """Return the accuracy on a batch, as a scalar on the device."""
    return (output.logits.argmax(-1) == batch.labels).float().mean()


def is_finite(scores: dict[str, float]) -> bool:
    """Tell whether every score is finite."""
    return all(math.isfinite(value) for value in scores.values())
