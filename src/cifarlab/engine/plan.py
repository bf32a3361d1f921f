"""How a run's steps fall into epochs and batches, and what a step knows of the run's time."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from torch import Tensor

from cifarlab.models.sizes import Sizes


@dataclass(frozen=True)
class Plan:
    """How a run's steps fall into epochs: a step is `accumulate` batches, an epoch's last maybe fewer."""

    samples: int
    batch_size: int
    epochs: int
    accumulate: int = 1

    @property
    def samples_per_epoch(self) -> int:
        """Batch norm cannot normalise one picture: a last batch of one is left out."""
        return self.samples - (self.samples > self.batch_size and self.samples % self.batch_size == 1)

    @property
    def step_size(self) -> int:
        """How many samples a step shows."""
        return self.batch_size * self.accumulate

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.samples_per_epoch // self.step_size)

    @property
    def total_steps(self) -> int:
        return self.steps_per_epoch * self.epochs

    def samples_before(self, step: int) -> int:
        """How many samples the first `step` steps of an epoch show."""
        return min(step * self.step_size, self.samples_per_epoch)

    def positions(self, order: Tensor, step: int) -> Tensor:
        """The part of an epoch's order (N,) that its `step`-th step shows."""
        return order[self.samples_before(step) : self.samples_before(step + 1)]

    def batches(self, step: int, samples: int) -> list[tuple[int, int]]:
        """Where in an epoch's order the batches of a step begin and end. step: counted from the run's start.

        samples: how many the order has; it may end early.
        """
        within, size = step % self.steps_per_epoch, self.batch_size
        first, last = self.samples_before(within), min(self.samples_before(within + 1), samples)
        return [(begin, min(begin + size, last)) for begin in range(first, last, size)]


@dataclass(frozen=True)
class Clock:
    """What a step knows of the run's time: its number, and the share of the run that is over."""

    step: int | Tensor
    progress: float | Tensor


@dataclass(frozen=True)
class StepPlan:
    """What one training step does, but for its pictures.

    Attributes:
        bounds: Where each batch begins and ends in the epoch's order.
        sizes: The sizes at which the pictures of each batch are seen.
        seeds: One for each forward pass, in order.
        clock: When it happens.
    """

    bounds: tuple[tuple[int, int], ...]
    sizes: tuple[Sizes, ...]
    seeds: tuple[int, ...]
    clock: Clock

    @property
    def counts(self) -> list[int]:
        """How many samples each batch trains on."""
        return [sum(len(rows) for _, parts in sizes for rows in parts) for sizes in self.sizes]

    @property
    def kind(self) -> Hashable:
        """What it has in common with the steps that a captured one can be replayed as."""
        return tuple(
            (last - first, sizes) for (first, last), sizes in zip(self.bounds, self.sizes, strict=True)
        )
