"""Distillation losses: what a student takes from a teacher's `Output` for the same view, in float32 at least.

The teacher's logits are calibrated: divided by the temperature that minimises its validation loss.
"""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from cifarlab.core.batch import Batch, Output
from cifarlab.core.errors import ConfigError
from cifarlab.core.registries import LOSSES
from cifarlab.objectives.classification import least_scale

Share = Annotated[float, Field(ge=0, le=1)]
Temperature = Annotated[float, Field(gt=0)]
Weight = Annotated[float, Field(ge=0)]

# Two embeddings nearer than this share of the usual distance differ by rounding: the direction from one to
# the other is noise, and its slope, 1 / distance, has no bound.
_COINCIDENT = 1e-5


@LOSSES.register(needs_teacher="logits")
def distill(batch: Batch, output: Output, *, temperature: Temperature = 4.0) -> Tensor:
    """The teacher's class probabilities at a temperature (Hinton, Vinyals, Dean 2015).

    The loss is T^2 x KL(teacher || student) at temperature T, mean over the batch. T^2 keeps the gradient's
    size as T grows: the loss tends to the squared distance of the centred logits over 2 C, for C classes
    (their eq. 4). The teacher's logits are calibrated first: they are divided by the temperature that
    minimises its validation loss.

    The scale of a head with cosines is chosen for training with a margin and says nothing of confidence. So
    the cosines of a student are multiplied by the teacher's own, calibrated scale where the teacher has
    cosines, too. Otherwise they are multiplied by the least scale at which a class can reach probability
    0.99, which is 9.1 for 100 classes.

    The published weights at T = 4 (CRD benchmark) are 0.9 for this loss and 0.1 for cross_entropy.

    Args:
        temperature: Number T that both models' logits are divided by. A larger one brings out the
            probabilities of the classes that the teacher does not choose.

    Raises:
        ConfigError: If there is no teacher.
    """
    teacher = _taught(batch.teacher, "distill")
    student = readable_logits(output, teacher) / temperature
    return temperature**2 * _divergence(student, _precise(teacher.logits) / temperature)


@LOSSES.register(soft_targets=False, needs_teacher="logits")
def dkd(
    batch: Batch,
    output: Output,
    *,
    temperature: Temperature = 4.0,
    alpha: Weight = 1.0,
    beta: Weight = 8.0,
    warmup: Share = 0.0,
) -> Tensor:
    """Decoupled distillation (Zhao et al. 2022).

    TCKD compares the probability of the label with that of all other classes together. NCKD compares the
    probabilities of the other classes among themselves. The loss is T^2 x (alpha x TCKD + beta x NCKD) at
    temperature T, mean over the batch. It needs hard labels. Both models' logits are scaled as by distill.
    With alpha = 1, and the teacher's 1 - p(label) of each picture in place of beta, it is distill.

    The published settings, beside cross_entropy at weight 1, are T = 4, alpha 1, beta 8 (6 for VGGs and wide
    ResNets, 2 for ResNets 20 to 110) and a warmup of 20 of 240 epochs.

    Args:
        temperature: Number T that both models' logits are divided by.
        alpha: Weight of TCKD, the label against the rest.
        beta: Weight of NCKD, the rest among itself.
        warmup: Share of the run over which the loss rises linearly from 0 to its weight. 0: none.

    Raises:
        ConfigError: If there is no teacher.
    """
    teacher = _taught(batch.teacher, "dkd")
    student_pair, student_rest = _decoupled(readable_logits(output, teacher) / temperature, batch.labels)
    teacher_pair, teacher_rest = _decoupled(_precise(teacher.logits) / temperature, batch.labels)
    label = _divergence(student_pair, teacher_pair)
    rest = _divergence(student_rest, teacher_rest)
    loss = temperature**2 * (alpha * label + beta * rest)
    if warmup:
        # progress may lie on the device, where a branch on it would wait for it.
        loss = loss * torch.as_tensor(batch.progress / warmup).clamp(max=1)
    return loss


@LOSSES.register(name="fitnet", needs_teacher="stages", reads_logits=False)
class FitNet(nn.Module):
    """Hints: squared distance of a stage's maps to the teacher's (Romero et al. 2015).

    The loss is the mean of the squared differences over all values of the maps. The student's maps first go
    through a regressor that is trained with the student: a 1x1 convolution to the teacher's channels, batch
    norm and ReLU, as in the CRD benchmark. Where the maps differ in size, the larger are average-pooled to
    the size of the smaller. The benchmark's regressor has a convolution with strides instead.

    The published weight is 100, beside cross_entropy at weight 1, with the stage before the last of a ResNet
    for CIFAR.

    Args:
        stage: Index into the stages of both models. 0 is the first stage, -1 the last.
        relu: Whether the regressor ends in ReLU. False: it ends in batch norm, for a teacher whose stages go
            below zero (pre-activation ResNets, linear bottlenecks).

    Raises:
        ConfigError: If there is no teacher, or one of the two models does not have this stage.
    """

    def __init__(self, student: Output, teacher: Output | None, *, stage: int = -2, relu: bool = True):
        super().__init__()
        teacher = _taught(teacher, "fitnet")
        of_student, of_teacher = len(student.stages), len(teacher.stages)
        both = min(of_student, of_teacher)
        if not -both <= stage < both:
            raise ConfigError(
                f"stage {stage} is not there: the student has {of_student}, the teacher {of_teacher}; "
                f"say {-both} to {both - 1}"
            )
        self.stage = stage
        channels = teacher.stages[stage].shape[1]
        self.regressor = nn.Sequential(
            nn.Conv2d(student.stages[stage].shape[1], channels, 1, bias=False),
            nn.BatchNorm2d(channels, track_running_stats=False),  # nothing is ever evaluated with it
            nn.ReLU() if relu else nn.Identity(),
        )

    def forward(self, batch: Batch, output: Output) -> Tensor:
        student = _precise(output.stages[self.stage])
        teacher = _precise(_taught(batch.teacher, "fitnet").stages[self.stage])
        height, width = map(min, zip(student.shape[-2:], teacher.shape[-2:], strict=True))
        with torch.autocast(student.device.type, enabled=False):
            regressed = self.regressor(_shrunk(student, height, width))
            return F.mse_loss(regressed, _shrunk(teacher, height, width))


@LOSSES.register(needs_teacher="embedding", compares=True, reads_logits=False)
def rkd(
    batch: Batch,
    output: Output,
    *,
    distance: Weight = 25.0,
    angle: Weight = 50.0,
    group: Annotated[int, Field(ge=3)] = 64,
) -> Tensor:
    """Relations among the embeddings of a batch: distances and angles (Park et al. 2019).

    The loss is distance x Huber(distances between two pictures, in units of their mean) + angle x
    Huber(cosines of the angles in all triangles of pictures). Each is a mean over all pairs or triples. As in
    the published code these include each picture with itself, which adds zeros. The embeddings of student and
    teacher may differ in width. A batch of one picture has no distances, and one of two has no angles: these
    terms are 0.

    The published weights, beside cross_entropy at weight 1, are 25 and 50.

    Args:
        distance: Weight of the distances.
        angle: Weight of the angles.
        group: Number of pictures in a group. Triples are taken among neighbours in the batch, group by group,
            since those of B pictures cost O(B^3). The last group may be smaller. 64, the batch of the
            published benchmarks, makes one group of their batches.

    Raises:
        ConfigError: If there is no teacher.
    """
    # Sums of inner products cancel the more the nearer two pictures are: float64 has digits to spare.
    # Differences pair by pair, (B, B, D), would need none, and take several times as long.
    student, teacher = _products(output.embedding), _products(_taught(batch.teacher, "rkd").embedding)
    distances = F.smooth_l1_loss(_relative(_distances(student)), _relative(_distances(teacher)))
    groups = [slice(start, start + group) for start in range(0, len(student), group)]
    angles = [
        F.smooth_l1_loss(_angles(student[g, g]), _angles(teacher[g, g]), reduction="sum") for g in groups
    ]
    triples = sum(len(student[g]) ** 3 for g in groups)
    return (distance * distances + angle * sum(angles) / triples).to(_precise(output.embedding).dtype)


def readable_logits(output: Output, teacher: Output) -> Tensor:
    """(B, C) logits of a student at the scale where a temperature means what it says.

    The scale that a head multiplies its cosines by (64, say) is chosen for training with a margin and says
    nothing of confidence: over T = 4 it would be another temperature. So cosines are read at the teacher's
    own, calibrated scale where it has cosines, too; else at `least_scale`, 9.1 for 100 classes. Other logits
    are returned as they are.
    """
    if output.cosines is None:
        return _precise(output.logits)
    least = least_scale(output.cosines.shape[1])
    return (least if teacher.cosines is None else teacher.scale) * _precise(output.cosines)


def _taught(teacher: Output | None, loss: str) -> Output:
    if teacher is None:
        raise ConfigError(f"{loss} learns from a teacher; say teacher.run=<a run's name>", ("teacher",))
    return teacher


def _precise(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(teacher || student) of two (B, C) logits, mean over the batch."""
    return F.kl_div(student.log_softmax(1), teacher.log_softmax(1), reduction="batchmean", log_target=True)


def _decoupled(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """(B, C) logits to (B, 2), of the label and of all others together, and (B, C - 1), of those others."""
    columns = torch.arange(logits.shape[1] - 1, device=logits.device)
    rest = logits.gather(1, columns + (columns >= labels[:, None]))
    return torch.cat([logits.gather(1, labels[:, None]), rest.logsumexp(1, keepdim=True)], 1), rest


def _shrunk(maps: Tensor, height: int, width: int) -> Tensor:
    """(B, C, h, w) maps averaged down to (B, C, height, width)."""
    # Not where nothing shrinks: on a GPU the gradient of adaptive pooling is not deterministic.
    return maps if maps.shape[-2:] == (height, width) else F.adaptive_avg_pool2d(maps, (height, width))


def _products(embedding: Tensor) -> Tensor:
    """(B, D) embeddings to the (B, B) inner products of their offsets from the first, in float64."""
    offsets = embedding.double() - embedding[:1].double()
    return offsets @ offsets.mT


def _distances(products: Tensor) -> Tensor:
    """(B, B) distances from inner products; 0, and no gradient, where two points coincide."""
    squares = products.diagonal()
    squared = squares + squares[:, None] - 2 * products
    apart = squared > _COINCIDENT**2 * squared.mean()
    return torch.where(apart, torch.where(apart, squared, 1).sqrt(), 0)


def _relative(distances: Tensor) -> Tensor:
    """(B, B) distances over the mean of those that are not 0."""
    total = distances.sum()
    return distances * (distances > 0).sum() / torch.where(total > 0, total, 1)


def _angles(products: Tensor) -> Tensor:
    """(B, B, B) cosines [j, i, k] of the angle at j, i to k, from inner products; 0 where two coincide."""
    distances = _distances(products)
    inverse = 1 / torch.where(distances > 0, distances, torch.inf)
    at_j = products - products[:, :, None] - products[:, None] + products.diagonal()[:, None, None]
    return at_j * inverse[:, :, None] * inverse[:, None]
