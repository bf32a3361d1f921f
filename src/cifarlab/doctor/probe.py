"""`Probe`: a prepared run, with one forward and backward pass, for checks to inspect."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from cifarlab.config import Config
from cifarlab.core.batch import Batch, Output
from cifarlab.doctor.plan_facts import Planned
from cifarlab.engine.batches import make_batch, view_epoch
from cifarlab.runs.teacher_report import TeacherReport
from cifarlab.teachers import examine
from cifarlab.training.setup import Job

# Number of pictures whose views are compared.
COMPARED = 500
# Limits of a small batch: pictures, and multiply-adds of all its pictures.
_PICTURES, _MACS = 128, 2e10


@dataclass(frozen=True)
class Pass:
    """One forward and backward pass.

    Attributes:
        batch: The batch.
        output: The model's output.
        loss: The total loss.
        names: Names of the trainable parameters.
        gradients: The gradient of each parameter in `names`. None if the loss does not depend on it.
        saved_bytes: Memory, in bytes, of what the forward pass saved for the backward pass, without weights.
    """

    batch: Batch
    output: Output
    loss: float
    names: tuple[str, ...]
    gradients: tuple[Tensor | None, ...]
    saved_bytes: int


class Probe:
    """A prepared run at its initial weights, for checks to inspect.

    The attributes `model` and `objective` are copies, so that a check does not train the run.

    Args:
        case: The recipe's configuration and the facts that follow from it.
        job: The prepared run.
        data_at_hand: Whether the pictures are the recipe's own, not a synthetic replacement.
    """

    def __init__(self, case: Planned, job: Job, data_at_hand: bool):
        self.case, self.job, self.data_at_hand = case, job, data_at_hand
        self.config: Config = job.engine.config
        self.model = copy.deepcopy(job.engine.model).train()
        self.objective = copy.deepcopy(job.engine.objective).train()

    @property
    def size(self) -> int:
        """The number of pictures in a small batch. It is even."""
        most = min(_PICTURES, self.config.data.batch_size, len(self.job.splits.train))
        return max(2, min(most, max(4, int(_MACS / max(1, self.job.macs)))) // 2 * 2)

    def views(self, epoch: int, num: int = COMPARED) -> Batch:
        """Return the first `num` training pictures as augmented in an epoch."""
        config, train = self.config, self.job.splits.train
        positions = torch.arange(min(num, len(train)), device=train.rows.device)
        view = view_epoch(config, epoch)
        return make_batch(train, positions, config.data, config.train.seed, view, self.model.num_classes)

    @cached_property
    def first(self) -> Pass:
        """One forward and backward pass of a small batch.

        It is computed in training mode, with the initial weights.
        """
        engine, teacher = self.job.engine, self.job.teacher
        batch = self.views(0, self.size)
        if teacher is not None:
            batch = replace(batch, teacher=teacher.read(teacher.ask(batch.images)), progress=1.0)
        torch.manual_seed(0)  # For dropout.
        named = {
            name: parameter
            for prefix, module in (("", self.model), ("objective.", self.objective))
            for name, parameter in _trained(module, prefix)
        }
        saved: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        stages = teacher is not None and teacher.stages
        watched = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
        with watched, engine.precision.autocast():
            output = self.model(engine.precision.layout(batch.images), stages=stages)
            losses = self.objective(batch, output)
        gradients = torch.autograd.grad(losses["total"], list(named.values()), allow_unused=True)
        weights = {p.untyped_storage().data_ptr() for p in self.model.parameters()}
        kept = sum(size for place, size in saved.items() if place not in weights)
        return Pass(batch, output, losses["total"].item(), tuple(named), gradients, kept)

    @cached_property
    def health(self) -> TeacherReport | None:
        """Measurements of the teacher. None if there is no teacher."""
        job = self.job
        return examine(job.teacher, job.engine, job.splits) if job.teacher is not None else None


def _trained(module: nn.Module, prefix: str) -> Sequence[tuple[str, nn.Parameter]]:
    return [(prefix + name, p) for name, p in module.named_parameters() if p.requires_grad]
