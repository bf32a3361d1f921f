"""One training step: dress a batch, forward, backward, clip, step, sums."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from cifarlab.compiling import compiled
from cifarlab.config import Config
from cifarlab.data.splits import Split
from cifarlab.device import Precision
from cifarlab.draws import hash_ints, label_key, permutation
from cifarlab.metrics import Means, batch_accuracy
from cifarlab.models.classifier import Classifier
from cifarlab.models.sizes import forward_at_sizes
from cifarlab.models.statistics import norms_in_training, statistics_anew, statistics_kept
from cifarlab.objectives.objective import Objective
from cifarlab.optim.averages import Average
from cifarlab.optim.optimizers import build_optimizer
from cifarlab.optim.schedules import learning_rate
from cifarlab.optim.sharpness import uphill
from cifarlab.records import Batch, Output
from cifarlab.views import dress, view_epoch


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


class Source(Protocol):
    """Whoever gives a teacher's output for the views of a batch."""

    def begin(self, view: int, stop: Callable[[], bool] = ...) -> str | None: ...

    def answer(self, batch: Batch, positions: Tensor) -> Output: ...


def unobserved(part: str) -> AbstractContextManager[object]:
    """The span of a part of a step that nobody takes the time of."""
    return nullcontext()


class Engine:
    """Everything that a training step changes: weights, optimizer, loss scale, average, running means."""

    def __init__(
        self,
        config: Config,
        model: Classifier,
        objective: Objective,
        train: Split,
        precision: Precision,
        teacher: Source | None = None,
    ):
        self.config, self.model, self.objective, self.train = config, model, objective, train
        self.precision, self.teacher = precision, teacher
        # Trained through; state, averages and evaluation are the model's own.
        self._through = compiled(model) if config.train.engine == "compiled" else model
        self.device = precision.device
        self.plan = Plan(len(train), config.data.batch_size, config.train.epochs, config.train.accumulate)
        self.optimizer = build_optimizer(config.optim, [model, objective])
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision.scaled)
        average = config.train.average
        self.average: Average | None = average.build(model) if average else None
        self.means = Means(self.device)
        # Around each part of a step, by the part's name; another one may take its time.
        self.span: Callable[[str], AbstractContextManager[object]] = unobserved
        self._stages = "stages" in config.lessons
        self._seed = hash_ints(config.train.seed, label_key("torch"))
        self._parameters = [p for group in self.optimizer.param_groups for p in group["params"]]

    @property
    def evaluated(self) -> torch.nn.Module:
        """The model that is scored and kept: the average of the weights where there is one by now."""
        return self.average.module if self.average is not None and self.average.n_averaged > 0 else self.model

    def order(self, epoch: int) -> Tensor:
        """(N,) int64: the positions of the training split as `epoch` visits them, where its pictures lie."""
        device = self.train.rows.device
        if not self.config.data.shuffle:
            return torch.arange(len(self.train), device=device)
        return permutation(self.config.train.seed, epoch, len(self.train), device)

    def begin(self, epoch: int, stop: Callable[[], bool] = lambda: False) -> str | None:
        """Make ready what `epoch` needs beside its pictures; a line for the user where that took time."""
        return self.teacher.begin(view_epoch(self.config, epoch), stop) if self.teacher is not None else None

    def learning_rate(self, step: int) -> float:
        """The learning rate of the `step`-th step of the run; the head's, where layers have their own."""
        return learning_rate(self.config.optim, step, self.plan.total_steps)

    def step(self, positions: Tensor, epoch: int, step: int) -> None:
        """Train on the samples of one step. step: counted from the start of the run."""
        rate = self.learning_rate(step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("lr_scale", 1)
        self.optimizer.zero_grad(set_to_none=True)
        watch: list[Tensor] = []
        for number, part in enumerate(positions.split(self.plan.batch_size)):
            with self.span("dress"):
                batch = replace(self._dress(part, epoch), progress=step / self.plan.total_steps)
            if self.teacher is not None:
                with self.span("teacher"):
                    batch = replace(batch, teacher=self.teacher.answer(batch, part))
            losses, output = self._backward(batch, epoch, step, number, len(part) / len(positions))
            means = {f"loss/{label}": loss for label, loss in losses.items()}
            with self.span("sums"):
                self.means.add({**means, "top1": batch_accuracy(batch, output)}, len(part), step)
            if (sharpness := self.config.optim.sharpness) is not None:
                # The second pass is outside `optimizer.step`: torch's loss scaler takes no closure there.
                with uphill(sharpness.bind(), self._parameters), statistics_kept(self.model, self.objective):
                    self.optimizer.zero_grad(set_to_none=True)
                    watch.append(self._backward(batch, epoch, step)[0]["total"])
        if (largest := self.config.train.grad_clip) is not None:
            with self.span("clip"):
                self.scaler.unscale_(self.optimizer)
                watch.append(torch.nn.utils.clip_grad_norm_(self._parameters, largest, foreach=True))
        with self.span("optimizer"):
            self.scaler.step(self.optimizer)
            self.scaler.update()
        if self.average is not None and self.average.is_due(
            step + 1, self.plan.steps_per_epoch, self.plan.total_steps
        ):
            with self.span("average"):
                self.average.update_parameters(self.model)
        # With a loss scale an overflow is ordinary: the scaler skips that step.
        if watch and not self.precision.scaled:
            self.means.watch(watch, step)

    def _dress(self, positions: Tensor, epoch: int) -> Batch:
        config = self.config
        view = view_epoch(config, epoch)
        return dress(self.train, positions, config.data, config.train.seed, view, self.model.num_classes)

    def _forward(
        self, model: torch.nn.Module, batch: Batch, epoch: int, step: int, number: int = 0
    ) -> Output:
        """What `model` says of a step's `number`-th batch; the same each time that it is asked for it."""
        plan = self.plan
        torch.manual_seed(hash_ints(self._seed, step * plan.accumulate + number))
        images = self.precision.layout(batch.images)
        place = plan.samples_before(step % plan.steps_per_epoch) + number * plan.batch_size
        ask = partial(model, stages=self._stages)
        return forward_at_sizes(ask, images, self.config, epoch, step, plan.total_steps, place)

    def _backward(
        self, batch: Batch, epoch: int, step: int, number: int = 0, share: float = 1.0
    ) -> tuple[dict[str, Tensor], Output]:
        """Add the gradients of a step's `number`-th batch, where the weights are. share: of its samples."""
        with self.precision.autocast():
            with self.span("forward"):
                output = self._forward(self._through, batch, epoch, step, number)
            with self.span("loss"):
                losses = self.objective(batch, output)
        with self.span("backward"):
            self.scaler.scale(losses["total"] * share).backward()
        return losses, output

    @torch.no_grad()
    def finish(self, epoch: int) -> None:
        """Make ready the model that is scored after `epoch`: its batch norms may have to see the pictures."""
        model = self.evaluated
        if self.average is None or model is self.model or self.average.has_own_statistics:
            return
        was_training = model.training
        model.train()
        if norms_in_training(model):
            order, before = self.order(epoch), epoch * self.plan.steps_per_epoch
            with statistics_anew(model), self.precision.autocast():
                for step in range(self.plan.steps_per_epoch):
                    positions = self.plan.positions(order, step)
                    for number, part in enumerate(positions.split(self.plan.batch_size)):
                        self._forward(model, self._dress(part, epoch), epoch, before + step, number)
        model.train(was_training)

    def has_finite_weights(self) -> bool:
        """Whether every weight and buffer is a number; synchronises with the device."""
        values = [v for v in self.model.state_dict().values() if v.is_floating_point()]
        return bool(torch.stack([value.isfinite().all() for value in values]).all())

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": self.average.state_dict() if self.average is not None else None,
            "means": self.means.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.objective.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"])
        if state["scaler"] and self.precision.scaled:
            self.scaler.load_state_dict(state["scaler"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.means.load_state_dict(state["means"])


def is_finite(scores: dict[str, float]) -> bool:
    """Whether every score is a number."""
    return all(math.isfinite(value) for value in scores.values())
