"""One training step: make a batch, forward, backward, clip, step, sums."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from cifarlab.config import Config
from cifarlab.core.batch import Batch, Output
from cifarlab.core.device import Precision
from cifarlab.core.random import hash_ints, label_key, permutation
from cifarlab.data.splits import Split
from cifarlab.engine.batches import BatchLoader, view_epoch
from cifarlab.engine.compiling import compiled
from cifarlab.engine.graphs import CudaTape, Graphs, Reseed, refuse_graphs
from cifarlab.engine.plan import Clock, Plan, StepPlan
from cifarlab.engine.running_means import Means, batch_accuracy
from cifarlab.engine.scoring import score_split
from cifarlab.engine.sources import Kept, Source, unobserved
from cifarlab.engine.state import EngineState
from cifarlab.models.batch_norm import norms_in_training, statistics_anew, statistics_kept
from cifarlab.models.classifier import Classifier
from cifarlab.models.sizes import Sizes, forward_at_sizes, sizes_of_batch
from cifarlab.objectives.objective import Objective
from cifarlab.optim.averages import Average
from cifarlab.optim.optimizers import build_optimizer
from cifarlab.optim.sam import uphill
from cifarlab.optim.schedules import learning_rate

# How many pixels are augmented at a time. A GPU is kept busy by many; a CPU's caches hold a batch at best.
PIXELS_AHEAD = {"cpu": 0, "cuda": 1 << 22}


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
        activations: Kept | None = None,
    ):
        self.config, self.model, self.objective, self.train = config, model, objective, train
        self.precision, self.teacher, self.activations = precision, teacher, activations
        # Trained through; state, averages and evaluation are the model's own.
        shown = self._behind_border(model)
        self._through = compiled(shown) if config.train.engine == "compiled" else shown
        self.device = precision.device
        self.plan = Plan(len(train), config.data.batch_size, config.train.epochs, config.train.accumulate)
        self.views = BatchLoader(train, config, model.num_classes, PIXELS_AHEAD[self.device.type])
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
        # Numbers that change from step to step: on a GPU they are tensors, and a captured step reads them.
        self._clock = self._device_clock() if self.device.type == "cuda" else None
        self.graphs: Graphs | None = None
        if config.train.engine == "graph":
            refuse_graphs(config, precision)
            self.use_graphs(Graphs(CudaTape(self.device)))

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

    def use_graphs(self, graphs: Graphs) -> None:
        """Capture steps, and batches that are scored, by `graphs` from now on."""
        self.graphs = graphs
        self._clock = self._clock or self._device_clock()

    def learning_rate(self, step: int) -> float:
        """The learning rate of the `step`-th step of the run; the head's, where layers have their own."""
        return learning_rate(self.config.optim, step, self.plan.total_steps)

    def step(self, order: Tensor, epoch: int, step: int) -> None:
        """Train on the samples of one step. order: the epoch's. step: counted from the start of the run."""
        plan = self._plan_step(len(order), epoch, step)
        self._behind_border(self.model)  # Brings it to the model's mode.
        batches = (self._batch(order, epoch, first, last, plan.clock) for first, last in plan.bounds)
        if self.graphs is None:
            self._learn(plan, batches, torch.manual_seed)
        else:
            work = partial(self._learn, plan)
            self.graphs.run(plan.kind, [*batches], plan.seeds, work)
        average = self.average
        if average is not None and average.is_due(step + 1, self.plan.steps_per_epoch, self.plan.total_steps):
            with self.span("average"):
                average.update_parameters(self.model)

    def _plan_step(self, samples: int, epoch: int, step: int) -> StepPlan:
        """Plan a step of an epoch whose order has so many samples; bring the clock to it."""
        bounds = tuple(self.plan.batches(step, samples))
        sizes = tuple(self._sizes(last - first, epoch, step, first) for first, last in bounds)
        passes = 1 if self.config.optim.sharpness is None else 2
        seeds = tuple(self._seed_of(step, number) for number in range(len(bounds)) for _ in range(passes))
        return StepPlan(bounds, sizes, seeds, self._set_clock(step))

    def _batch(self, order: Tensor, epoch: int, first: int, last: int, now: Clock) -> Batch:
        """The samples from `first` to before `last` of the epoch's order, as they are learned from."""
        with self.span("batch"):
            batch = replace(self._shown(order, epoch, first, last), progress=now.progress)
        if self.teacher is not None:
            with self.span("teacher"):
                batch = replace(batch, teacher=self.teacher.answer(batch, order[first:last]))
        return batch

    def _shown(self, order: Tensor, epoch: int, first: int, last: int) -> Batch:
        """The samples as the model sees them: their pictures, or the activations of its frozen part."""
        if self.activations is not None:
            return self.activations.batch(order[first:last], epoch)
        return self.views.batch(order, epoch, first, last)

    def _behind_border(self, model: torch.nn.Module) -> torch.nn.Module:
        """What of a model is computed: all, or what follows its frozen part, in the mode that it is in."""
        if self.activations is None:
            return model
        tail = self.activations.tail(model)
        if tail.training != model.training:
            tail.train(model.training)
        return tail

    def _learn(self, plan: StepPlan, batches: Iterable[Batch], reseed: Reseed) -> None:
        """Take the step: the part that may be captured.

        It reads nothing from the host that changes from step to step, and asks nothing of the device before
        the first pass.
        """
        self.optimizer.zero_grad(set_to_none=True)
        watched: list[Tensor] = []
        seeds, counts = iter(plan.seeds), plan.counts
        for batch, sizes, count in zip(batches, plan.sizes, counts, strict=True):
            reseed(next(seeds))
            losses, output = self._backward(batch, sizes, count / sum(counts))
            means = {f"loss/{label}": loss for label, loss in losses.items()}
            with self.span("sums"):
                self.means.add({**means, "top1": batch_accuracy(batch, output)}, count, plan.clock.step)
            if self.config.optim.sharpness is not None:
                watched.append(self._backward_uphill(batch, sizes, lambda: reseed(next(seeds))))
        if (largest := self.config.train.grad_clip) is not None:
            with self.span("clip"):
                self.scaler.unscale_(self.optimizer)
                watched.append(torch.nn.utils.clip_grad_norm_(self._parameters, largest, foreach=True))
        with self.span("optimizer"):
            self.scaler.step(self.optimizer)
            self.scaler.update()
        # With a loss scale an overflow is ordinary: the scaler skips that step.
        if watched and not self.precision.scaled:
            self.means.watch(watched, plan.clock.step)

    def _backward_uphill(self, batch: Batch, sizes: Sizes, reseed: Callable[[], object]) -> Tensor:
        """Replace the gradients by those of a sharpness-aware step; return the loss there.

        This second pass is outside `optimizer.step`: torch's loss scaler takes no closure there.
        """
        assert self.config.optim.sharpness is not None
        ascent = self.config.optim.sharpness.bind()
        with uphill(ascent, self._parameters), statistics_kept(self.model, self.objective):
            self.optimizer.zero_grad(set_to_none=True)
            reseed()
            return self._backward(batch, sizes)[0]["total"]

    def _device_clock(self) -> Clock:
        """Tensors for what changes from step to step; such are the learning rates of the groups, too."""
        for group in self.optimizer.param_groups:
            group["lr"] = torch.zeros((), device=self.device)
            if "capturable" in group:
                group["capturable"] = self.device.type == "cuda"
        step = torch.zeros((), dtype=torch.int64, device=self.device)
        return Clock(step, torch.zeros((), dtype=torch.float64, device=self.device))

    def _set_clock(self, step: int) -> Clock:
        """Bring the learning rates and the clock to a step, without waiting for the device."""
        rate, progress = self.learning_rate(step), step / self.plan.total_steps
        for group in self.optimizer.param_groups:
            value = rate * group.get("lr_scale", 1)
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(value)
            else:
                group["lr"] = value
        if self._clock is None:
            return Clock(step, progress)
        for tensor, value in ((self._clock.step, step), (self._clock.progress, progress)):
            assert isinstance(tensor, Tensor)
            tensor.fill_(value)
        return self._clock

    def _seed_of(self, step: int, number: int) -> int:
        """Of torch's generators in the forward passes of a step's `number`-th batch."""
        return hash_ints(self._seed, step * self.plan.accumulate + number)

    def _sizes(self, count: int, epoch: int, step: int, place: int) -> Sizes:
        """At which sizes `count` pictures are seen that stand at `place` and after in the epoch's order."""
        return sizes_of_batch(self.config, count, epoch, step, self.plan.total_steps, place)

    def _forward(self, model: torch.nn.Module, batch: Batch, sizes: Sizes) -> Output:
        if batch.activations is not None:
            return model(batch.activations)
        images = self.precision.layout(batch.images)
        if len(sizes) == 1:
            return model(images, sizes[0][0], stages=self._stages)
        return forward_at_sizes(partial(model, stages=self._stages), images, sizes)

    def _backward(self, batch: Batch, sizes: Sizes, share: float = 1.0) -> tuple[dict[str, Tensor], Output]:
        """Add the gradients of a batch, where the weights are. share: of the step's samples."""
        with self.precision.autocast():
            with self.span("forward"):
                output = self._forward(self._through, batch, sizes)
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
            # Of an average whose frozen part is another, nothing is kept.
            skips = self.activations is not None and self.activations.knows(model)
            shown = self._behind_border(model) if skips else model
            with statistics_anew(model), self.precision.autocast():
                for step in range(before, before + self.plan.steps_per_epoch):
                    for number, (first, last) in enumerate(self.plan.batches(step, len(order))):
                        torch.manual_seed(self._seed_of(step, number))
                        samples = (order, epoch, first, last)
                        batch = self._shown(*samples) if skips else self.views.batch(*samples)
                        self._forward(shown, batch, self._sizes(last - first, epoch, step, first))
        model.train(was_training)

    def score(self, split: Split, image_size: int | None = None) -> dict[str, float]:
        """As `evaluate`, of the model that is scored by now. image_size: if not the recipe's."""
        own, model, kept = self.config.data.image_size, self.evaluated, None
        if self.activations is not None and image_size in (None, own) and self.activations.knows(model):
            kept = self.activations.clean(split)
        model = model if kept is None else self._behind_border(model)
        return score_split(model, split, self.precision, image_size or own, self.graphs, kept)

    def has_finite_weights(self) -> bool:
        """Whether every weight and buffer is a number; synchronises with the device."""
        values = [v for v in self.model.state_dict().values() if v.is_floating_point()]
        return bool(torch.stack([value.isfinite().all() for value in values]).all())

    def state_dict(self) -> EngineState:
        return {
            "model": self.model.state_dict(),
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": self.average.state_dict() if self.average is not None else None,
            "means": self.means.state_dict(),
        }

    def load_state_dict(self, state: EngineState) -> None:
        self.model.load_state_dict(state["model"])
        self.objective.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"])
        # The groups are those of the run that was saved, which may have been on another device.
        if self._clock is not None:
            self._clock = self._device_clock()
        else:
            for group in self.optimizer.param_groups:
                group["lr"] = float(group["lr"])
        if state["scaler"] and self.precision.scaled:
            self.scaler.load_state_dict(state["scaler"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.means.load_state_dict(state["means"])
