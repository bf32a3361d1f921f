"""`Planned`: what a configuration says of a run before any data are read."""

from __future__ import annotations

from dataclasses import dataclass

from cifarlab.config import Config
from cifarlab.engine.plan import Plan
from cifarlab.optim.schedules import learning_rate

# (pictures of the train part, classes) of data sets that are always the same.
_KNOWN = {"cifar100": (50_000, 100), "cifar10": (50_000, 10)}
_SYNTHETIC_CLASSES = 100
# Optimizers whose decay is a share of the weights, lr x decay a step; sgd's goes through its momentum.
_DECOUPLED = ("adamw", "lion", "muon")


@dataclass(frozen=True)
class Planned:
    """A configuration, with how many pictures it trains on and how many classes there are, where known."""

    config: Config
    num_pictures: int | None
    num_classes: int | None

    @property
    def plan(self) -> Plan | None:
        """How the steps fall into epochs."""
        config = self.config
        if self.num_pictures is None:
            return None
        return Plan(self.num_pictures, config.data.batch_size, config.train.epochs, config.train.accumulate)

    @property
    def run_steps(self) -> int | None:
        """How many steps the run takes: where train.stop ends it, fewer than its schedules span."""
        return self.plan and self.plan.steps_per_epoch * self.config.train.last_epoch

    def rates(self, num: int = 1000, taken: int | None = None) -> list[float]:
        """Learning rates of at most `num` steps spread over the run, the first and the last among them.

        taken: of the first so many steps, not of all planned.
        """
        total = self.plan.total_steps if self.plan else num
        last = (total if taken is None else taken) - 1
        steps = sorted({round(i * last / (num - 1)) for i in range(num)})
        return [learning_rate(self.config.optim, step, total) for step in steps]

    def decay_per_step(self) -> float | None:
        """Which share of the weights a step at the peak rate decays; None where the optimizer is unknown."""
        optim = self.config.optim
        if optim.optimizer.name in _DECOUPLED:
            return optim.lr * optim.weight_decay
        if optim.optimizer.name == "sgd":
            return optim.lr * optim.weight_decay / (1 - optim.optimizer.kwargs()["momentum"])
        return None


def planned(config: Config) -> Planned:
    """The numbers of pictures and classes, from the configuration alone."""
    data = config.data
    if data.dataset.name == "synthetic":
        known = (data.dataset.kwargs()["train"], _SYNTHETIC_CLASSES)
    elif data.dataset.name in _KNOWN:
        known = _KNOWN[data.dataset.name]
    else:
        return Planned(config, data.limit, data.classes)
    pictures, classes = known[0], min(known[1], data.classes or known[1])
    pictures = pictures * classes // known[1]
    pictures -= round(data.val * pictures) if data.val < 1 else int(data.val)
    return Planned(config, max(1, min(pictures, data.limit or pictures)), classes)
