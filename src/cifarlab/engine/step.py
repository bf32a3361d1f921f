"""`Engine`: training steps (batches, passes, clipping, optimizer, running means), and scoring of splits."""

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
from cifarlab.engine.sources import ActivationSource, Source, unobserved
from cifarlab.engine.state import EngineState
from cifarlab.models.batch_norm import norms_in_training, reestimated_statistics, statistics_kept
from cifarlab.models.classifier import Classifier
from cifarlab.models.sizes import Sizes, forward_at_sizes, sizes_of_batch
from cifarlab.objectives.objective import Objective
from cifarlab.optim.averages import Average
from cifarlab.optim.optimizers import build_optimizer
from cifarlab.optim.sam import uphill
from cifarlab.optim.schedules import learning_rate

# How many pixels are augmented at a time. A GPU needs many to stay busy. A CPU's caches hold a batch at best.
PIXELS_AHEAD = {"cpu": 0, "cuda": 1 << 22}


class Engine:
    """Takes training steps; holds their state: weights, optimizer, loss scale, average, running means.

    `teacher` supplies a teacher's outputs; `activations` supplies stored activations in place of pictures.
    """

    def __init__(
        self,
        config: Config,
        model: Classifier,
        objective: Objective,
        train_split: Split,
        precision: Precision,
        *,
        teacher: Source | None = None,
        activations: ActivationSource | None = None,
    ):
        self.config, self.model, self.objective, self.train_split = config, model, objective, train_split
        self.precision, self.teacher, self.activations = precision, teacher, activations
        # Training calls this. State, averages and evaluation use the model itself.
        shown = self._behind_border(model)
        self._through = compiled(shown) if config.train.engine == "compiled" else shown
        self.device = precision.device
        train, size = config.train, config.data.batch_size
        self.plan = Plan(len(train_split), size, train.epochs, train.accumulate)
        self.batches = BatchLoader(train_split, config, model.num_classes, PIXELS_AHEAD[self.device.type])
        self.optimizer = build_optimizer(config.optim, [model, objective])
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=precision.scaled)
        self.average: Average | None = train.average.build(model) if train.average else None
        self.means = Means(self.device)
        # A context around each named part of a step. A profiler may replace it to measure times.
        self.span: Callable[[str], AbstractContextManager[object]] = unobserved
        self._stages = "stages" in config.teacher_outputs
        self._seed = hash_ints(config.train.seed, label_key("torch"))
        self._parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        # Numbers that change from step to step. On a GPU they are tensors, which a captured step reads.
        self._clock = self._device_clock() if self.device.type == "cuda" else None
        self.graphs: Graphs | None = None
        if train.engine == "graph":
            refuse_graphs(config, precision)
            self.use_graphs(Graphs(CudaTape(self.device)))

    @property
    def evaluated(self) -> torch.nn.Module:
        """Return the averaged model, or the model itself before averaging begins."""
        return self.average.module if self.average is not None and self.average.n_averaged > 0 else self.model

    def order(self, epoch: int) -> Tensor:
        """Return the epoch's order: positions in the training split, (N,) int64."""
        shuffled = partial(permutation, self.config.train.seed, epoch)
        make = shuffled if self.config.data.shuffle else torch.arange
        return make(len(self.train_split), device=self.train_split.rows.device)

    def begin(self, epoch: int, stop: Callable[[], bool] = lambda: False) -> str | None:
        """Prepare an epoch's teacher outputs; return a message if they were computed."""
        return self.teacher.begin(view_epoch(self.config, epoch), stop) if self.teacher is not None else None

    def use_graphs(self, graphs: Graphs) -> None:
        """Capture and replay training steps and scoring by `graphs` from now on."""
        self.graphs = graphs
        self._clock = self._clock or self._device_clock()

    def learning_rate(self, step: int) -> float:
        """Return a step's learning rate; with layer decay, that of the head."""
        return learning_rate(self.config.optim, step, self.plan.total_steps)

    def step(self, order: Tensor, epoch: int, step: int) -> None:
        """Take step `step` (0 is the run's first) with the epoch's order."""
        plan = self._plan_step(len(order), epoch, step)
        self._behind_border(self.model)  # Sets the tail to the model's mode.
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
        """Plan a step in an epoch of `samples` samples; set the clock."""
        bounds = tuple(self.plan.batches(step, samples))
        sizes = tuple(self._sizes(last - first, epoch, step, first) for first, last in bounds)
        passes = 1 if self.config.optim.sharpness is None else 2
        seeds = tuple(self._seed_of(step, number) for number in range(len(bounds)) for _ in range(passes))
        return StepPlan(bounds, sizes, seeds, self._set_clock(step))

    def _batch(self, order: Tensor, epoch: int, first: int, last: int, now: Clock) -> Batch:
        """Return the batch of samples order[first:last], with any teacher's outputs."""
        with self.span("batch"):
            batch = replace(self._shown(order, epoch, first, last), progress=now.progress)
        if self.teacher is not None:
            with self.span("teacher"):
                batch = replace(batch, teacher=self.teacher.answer(batch, order[first:last]))
        return batch

    def _shown(self, order: Tensor, epoch: int, first: int, last: int) -> Batch:
        """Return a batch of pictures, or of their stored activations if used."""
        if self.activations is not None:
            return self.activations.batch(order[first:last], epoch)
        return self.batches.batch(order, epoch, first, last)

    def _behind_border(self, model: torch.nn.Module) -> torch.nn.Module:
        """Return the model or, with stored activations, the part that takes them."""
        if self.activations is None:
            return model
        tail = self.activations.tail(model)
        if tail.training != model.training:
            tail.train(model.training)
        return tail

    def _learn(self, plan: StepPlan, batches: Iterable[Batch], reseed: Reseed) -> None:
        """Take the planned step; graphs may capture what this function does.

        Its Python code must not read numbers that vary by step. `reseed` must come before all device work.
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
        # With a loss scale, overflows are expected: the scaler skips such a step.
        if watched and not self.precision.scaled:
            self.means.watch(watched, plan.clock.step)

    def _backward_uphill(self, batch: Batch, sizes: Sizes, reseed: Callable[[], object]) -> Tensor:
        """Replace the gradients by sharpness-aware ones; return the second pass's loss."""
        assert self.config.optim.sharpness is not None
        ascent = self.config.optim.sharpness.bind()  # No closure of `step`: torch's loss scaler accepts none.
        with uphill(ascent, self._parameters), statistics_kept(self.model, self.objective):
            self.optimizer.zero_grad(set_to_none=True)
            reseed()
            return self._backward(batch, sizes)[0]["total"]

    def _device_clock(self) -> Clock:
        """Return a clock of tensors, and make learning rates tensors, too."""
        for group in self.optimizer.param_groups:
            group["lr"] = torch.zeros((), device=self.device)
            if "capturable" in group:
                group["capturable"] = self.device.type == "cuda"
        step = torch.zeros((), dtype=torch.int64, device=self.device)
        return Clock(step, torch.zeros((), dtype=torch.float64, device=self.device))

    def _set_clock(self, step: int) -> Clock:
        """Set learning rates and clock to a step, without a device sync."""
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
        """Return torch's seed for the passes of batch `number` of a step."""
        return hash_ints(self._seed, step * self.plan.accumulate + number)

    def _sizes(self, count: int, epoch: int, step: int, place: int) -> Sizes:
        """Return image sizes for `count` pictures from index `place` of the epoch's order."""
        return sizes_of_batch(self.config, count, epoch, step, self.plan.total_steps, place)

    def _forward(self, model: torch.nn.Module, batch: Batch, sizes: Sizes) -> Output:
        if batch.activations is not None:
            return model(batch.activations)
        images = self.precision.layout(batch.images)
        if len(sizes) == 1:
            return model(images, sizes[0][0], stages=self._stages)
        return forward_at_sizes(partial(model, stages=self._stages), images, sizes)

    def _backward(self, batch: Batch, sizes: Sizes, share: float = 1.0) -> tuple[dict[str, Tensor], Output]:
        """Add `share` times a batch's gradients; return its losses and output."""
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
        """Re-estimate batch-norm statistics of averaged weights, if needed, before scoring `epoch`."""
        model = self.evaluated
        if self.average is None or model is self.model or self.average.has_own_statistics:
            return
        was_training = model.training
        model.train()
        if norms_in_training(model):
            order, before = self.order(epoch), epoch * self.plan.steps_per_epoch
            # Kept activations do not hold for an average with a different frozen part.
            skips = self.activations is not None and self.activations.knows(model)
            shown = self._behind_border(model) if skips else model
            with reestimated_statistics(model), self.precision.autocast():
                for step in range(before, before + self.plan.steps_per_epoch):
                    for number, (first, last) in enumerate(self.plan.batches(step, len(order))):
                        torch.manual_seed(self._seed_of(step, number))
                        samples = (order, epoch, first, last)
                        batch = self._shown(*samples) if skips else self.batches.batch(*samples)
                        self._forward(shown, batch, self._sizes(last - first, epoch, step, first))
        model.train(was_training)

    def score(self, split: Split, image_size: int | None = None) -> dict[str, float]:
        """Score a split with `score_split`; the default size is the recipe's."""
        own, model, kept = self.config.data.image_size, self.evaluated, None
        if self.activations is not None and image_size in (None, own) and self.activations.knows(model):
            kept = self.activations.clean(split)
        model, size = model if kept is None else self._behind_border(model), image_size or own
        return score_split(model, split, self.precision, size, graphs=self.graphs, activations=kept)

    def has_finite_weights(self) -> bool:
        """Tell whether weights and buffers are finite; waits for the device."""
        values = [v for v in self.model.state_dict().values() if v.is_floating_point()]
        return bool(torch.stack([value.isfinite().all() for value in values]).all())

    def state_dict(self) -> EngineState:
        """Return the state dicts of all parts."""
        return {
            "model": self.model.state_dict(),
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": self.average.state_dict() if self.average is not None else None,
            "means": self.means.state_dict(),
        }

    def load_state_dict(self, state: EngineState) -> None:
        """Restore a result of `state_dict`, perhaps from another device."""
        self.model.load_state_dict(state["model"])
        self.objective.load_state_dict(state["objective"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self._clock is not None:
            self._clock = self._device_clock()
        else:
            for group in self.optimizer.param_groups:
                group["lr"] = float(group["lr"])
        if state["scaler"] and self.precision.scaled:
            self.scaler.load_state_dict(state["scaler"])
        if self.average is not None and state["average"] is not None:
            self.average.load_state_dict(state["average"])
        self.means.load_state_dict(state["means"])
