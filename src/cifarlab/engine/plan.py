"""The division of a run into epochs, steps and batches."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from torch import Tensor

from cifarlab.models.sizes import Sizes


@dataclass(frozen=True)
class Plan:
    """The division of a run into epochs, steps and batches.

    A step is one update of the weights, from `accumulate` batches. The last step of an epoch may have fewer
    batches, and its last batch fewer samples. An epoch's order is a tensor of positions in the training
    split, (N,), in the order in which the epoch uses them.

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
        """Return the number of samples that an epoch uses.

        A last batch of one picture is left out, because batch norm cannot normalise it.
        """
        return self.samples - (self.samples > self.batch_size and self.samples % self.batch_size == 1)

    @property
    def step_size(self) -> int:
        """Return the number of samples in a full step."""
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
        """Return the positions that a step uses, from the epoch's `order`.

        `step` is counted from 0 within the epoch.
        """
        return order[self.samples_before(step) : self.samples_before(step + 1)]

    def batches(self, step: int, samples: int) -> list[tuple[int, int]]:
        """Return the range of each batch of a step.

        Args:
            step: Step, counted from 0 at the start of the run.
            samples: Length of the epoch's order. If it is less than `samples_per_epoch`, the ranges end
                there.

        Returns:
            (first, last) of each batch, which holds `order[first:last]`.
        """
        within, size = step % self.steps_per_epoch, self.batch_size
        first, last = self.samples_before(within), min(self.samples_before(within + 1), samples)
        return [(begin, min(begin + size, last)) for begin in range(first, last, size)]


@dataclass(frozen=True)
class Clock:
    """A step's position in the run.

    On a GPU both attributes are tensors, which captured steps read. Otherwise they are numbers.

    Attributes:
        step: Number of the step, from 0 at the start of the run.
        progress: Share of the run's steps that came before this one, in [0, 1).
    """

    step: int | Tensor
    progress: float | Tensor


@dataclass(frozen=True)
class StepPlan:
    """The plan of one training step.

    It says which pictures the step uses, but does not hold them.

    Attributes:
        bounds: (first, last) of each batch, which holds `order[first:last]` of the epoch's order.
        sizes: For each batch, the image sizes at which its pictures are trained, as `sizes_of_batch` returns
            them.
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
        """Return a key; steps with equal keys can replay the same graphs."""
        return tuple(
            (last - first, sizes) for (first, last), sizes in zip(self.bounds, self.sizes, strict=True)
        )
