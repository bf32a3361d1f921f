"""Facts about a run that follow from its configuration, without reading the data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cifarlab.config import Config
from cifarlab.data.readers import synthetic_labels
from cifarlab.data.synthetic import CLASSES
from cifarlab.engine.plan import Plan
from cifarlab.optim.schedules import learning_rate

# (training pictures, classes) of data sets of fixed size.
_KNOWN = {"cifar100": (50_000, 100), "cifar10": (50_000, 10)}
# Optimizers with decoupled weight decay: a step removes lr x decay of a weight. SGD's decay passes through
# its momentum.
_DECOUPLED = ("adamw", "lion", "muon")


@dataclass(frozen=True)
class Planned:
    """A configuration, and the numbers of pictures and classes of its run.

    Attributes:
        config: The configuration.
        num_pictures: Number of training pictures, without those held out. None if unknown.
        num_classes: Number of classes. None if unknown.
        num_val: Number of pictures held out for validation. 0 if unknown.
    """

    config: Config
    num_pictures: int | None
    num_classes: int | None
    num_val: int = 0

    @property
    def plan(self) -> Plan | None:
        """The division of epochs into steps; None if `num_pictures` is None."""
        config = self.config
        if self.num_pictures is None:
            return None
        return Plan(self.num_pictures, config.data.batch_size, config.train.epochs, config.train.accumulate)

    @property
    def run_steps(self) -> int | None:
        """Number of steps of the run; None if unknown.

        With `train.stop` the run ends early, before the last step of its schedules.
        """
        return self.plan and self.plan.steps_per_epoch * self.config.train.last_epoch

    def rates(self, num: int = 1000, taken: int | None = None) -> list[float]:
        """Return the learning rates of evenly spaced steps, first and last included.

        Args:
            num: Largest number of rates to return.
            taken: The steps are spaced over the first `taken` steps. None: over all steps of the schedule.
        """
        total = self.plan.total_steps if self.plan else num
        last = (total if taken is None else taken) - 1
        steps = sorted({round(i * last / (num - 1)) for i in range(num)})
        return [learning_rate(self.config.optim, step, total) for step in steps]

    def decay_per_step(self) -> float | None:
        """Return the share of a weight that decay removes per step.

        The share is for a step at the peak learning rate. It is None if the optimizer's form of weight decay
        is unknown.
        """
        optim = self.config.optim
        if optim.optimizer.name in _DECOUPLED:
            return optim.lr * optim.weight_decay
        if optim.optimizer.name == "sgd":
            return optim.lr * optim.weight_decay / (1 - optim.optimizer.kwargs()["momentum"])
        return None


def planned(config: Config) -> Planned:
    """Return the configuration with its numbers of pictures and classes.

    The numbers are computed for the built-in data sets. For any other data set they are `data.limit` and
    `data.classes`, each None if not set.
    """
    data = config.data
    if data.dataset.name == "synthetic":
        labels = synthetic_labels(data.dataset.kwargs()["train"])
        known = len(CLASSES)
    elif data.dataset.name in _KNOWN:
        count, known = _KNOWN[data.dataset.name]
        labels = np.arange(count) % known
    else:
        return Planned(config, data.limit, data.classes)
    classes = min(known, data.classes or known)
    pictures = int((labels < classes).sum())
    held_out = data.held_out(pictures)
    pictures -= held_out
    return Planned(config, max(1, min(pictures, data.limit or pictures)), classes, held_out)
