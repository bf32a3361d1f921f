"""The plan of a run's steps: epochs, batches, and elapsed time."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from torch import Tensor

from cifarlab.models.sizes import Sizes


@dataclass(frozen=True)
class Plan:
    """The division of a run's steps into epochs and batches.

    A step has `accumulate` batches. The last step of an epoch may have fewer.

    Attributes:
        samples: Number of training samples.
        batch_size: Samples in a batch.
        epochs: Number of epochs.
        accumulate: Batches in a step.
    """

    samples: int
    batch_size: int
    epochs: int
    accumulate: int = 1

    @property
    def samples_per_epoch(self) -> int:
        """Return the samples that an epoch uses.

        A last batch of one picture is left out, because batch norm cannot normalise it.
        """
        return self.samples - (self.samples > self.batch_size and self.samples % self.batch_size == 1)

    @property
    def step_size(self) -> int:
        """Return the number of samples in a step."""
        return self.batch_size * self.accumulate

    @property
    def steps_per_epoch(self) -> int:
        """Return the number of steps in an epoch."""
        return -(-self.samples_per_epoch // self.step_size)

    @property
    def total_steps(self) -> int:
        """Return the number of steps in all epochs."""
        return self.steps_per_epoch * self.epochs

    def samples_before(self, step: int) -> int:
        """Return the number of samples in an epoch's first `step` steps."""
        return min(step * self.step_size, self.samples_per_epoch)

    def positions(self, order: Tensor, step: int) -> Tensor:
        """Return the part of an epoch's order (N,) for its `step`-th step."""
        return order[self.samples_before(step) : self.samples_before(step + 1)]

    def batches(self, step: int, samples: int) -> list[tuple[int, int]]:
        """Return where a step's batches begin and end in the epoch's order.

        Args:
            step: Step, counted from the start of the run.
            samples: Length of the order, which may be cut short.
        """
        within, size = step % self.steps_per_epoch, self.batch_size
        first, last = self.samples_before(within), min(self.samples_before(within + 1), samples)
        return [(begin, min(begin + size, last)) for begin in range(first, last, size)]


@dataclass(frozen=True)
class Clock:
    """A step's position in the run.

    Attributes:
        step: Its number.
        progress: Share of the run before it, in [0, 1).
    """

    step: int | Tensor
    progress: float | Tensor


@dataclass(frozen=True)
class StepPlan:
    """The plan of one training step.

    It says which pictures the step uses, but does not hold them.

    Attributes:
        bounds: Where each batch begins and ends in the epoch's order.
        sizes: For each batch, the image sizes at which its pictures are trained.
        seeds: The random seed of each forward pass, in order.
        clock: The step's position in the run.
    """

    bounds: tuple[tuple[int, int], ...]
    sizes: tuple[Sizes, ...]
    seeds: tuple[int, ...]
    clock: Clock

    @property
    def counts(self) -> list[int]:
        """Return the number of samples in each batch."""
        return [sum(len(rows) for _, parts in sizes for rows in parts) for sizes in self.sizes]

    @property
    def kind(self) -> Hashable:
        """Return a key: steps with equal keys can replay one capture."""
        return tuple(
            (last - first, sizes) for (first, last), sizes in zip(self.bounds, self.sizes, strict=True)
        )
