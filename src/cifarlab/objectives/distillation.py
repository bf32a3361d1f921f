"""Distillation losses, which compare the outputs of a student and a teacher for the same augmented pictures.

They compute in float32 or float64. The teacher's logits are calibrated: divided by the temperature that
minimises the teacher's validation loss.
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

# Two embeddings nearer than this share of the usual distance are treated as equal. Their difference is
# rounding noise, and the slope of its direction, 1 / distance, is unbounded.
_COINCIDENT = 1e-5


@LOSSES.register(needs_teacher="logits")
def distill(batch: Batch, output: Output, *, temperature: Temperature = 4.0) -> Tensor:
    """Divergence from the teacher's softened probabilities (Hinton et al. 2015).

    The loss is T^2 x KL(teacher || student) of the probabilities at temperature T, mean over the batch. The
    factor T^2 keeps the gradient from vanishing as T grows: the loss then tends to the squared distance
    between the two models' centred logits, divided by 2 C for C classes (eq. 4 of Hinton, Vinyals and Dean).
    The teacher's logits are calibrated first: they are divided by the temperature that minimises the
    teacher's validation loss.

    The scale of a cosine head is chosen for training with a margin and is no measure of confidence. So a
    student's cosines are multiplied by another scale. If the teacher has cosines, too, it is the teacher's
    calibrated scale. Otherwise it is the least scale at which a class can reach probability 0.99: 9.1 for 100
    classes.

    The published weights at T = 4 (CRD benchmark) are 0.9 for this loss and 0.1 for cross_entropy.

    Args:
        temperature: Number T that both models' logits are divided by. A larger one gives more weight to
            classes of low probability.

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

    The loss is T^2 x (alpha x TCKD + beta x NCKD) at temperature T, mean over the batch. Both terms are
    KL(teacher || student). TCKD (target class) is taken over two outcomes: the label, or any other class.
    NCKD (non-target classes) is taken over the other classes alone, whose probabilities are scaled to the sum
    1. The loss needs hard labels. Both models' logits are scaled as in distill. If alpha is 1, and beta is
    replaced by the teacher's 1 - p(label) of each picture, the loss equals distill.

    The published settings, with cross_entropy at weight 1, are T = 4, alpha 1, beta 8 (6 for VGGs and wide
    ResNets, 2 for ResNets 20 to 110) and a warmup of 20 of 240 epochs.

    Args:
        temperature: Number T that both models' logits are divided by.
        alpha: Weight of TCKD, the label against the rest.
        beta: Weight of NCKD, the other classes among themselves.
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
        # progress may be a tensor on the device. A Python branch on it would wait for the device.
        loss = loss * torch.as_tensor(batch.progress / warmup).clamp(max=1)
    return loss


@LOSSES.register(name="fitnet", needs_teacher="stages", reads_logits=False)
class FitNet(nn.Module):
    """Hints: squared difference of the models' feature maps (Romero et al. 2015).

    The loss is the mean squared difference between the student's and the teacher's maps of one stage. The
    student's maps first go through a regressor that is trained with the student: a 1x1 convolution to the
    teacher's channels, batch norm and ReLU, as in the CRD benchmark. If the maps differ in size, the larger
    ones are average-pooled to the smaller size; the benchmark uses strided convolutions in place of pooling.

    The published weight is 100, with cross_entropy at weight 1 and the stage before the last of a ResNet for
    CIFAR.

    Args:
        stage: Index into the stages of both models. 0 is the first stage, -1 the last.
        relu: Whether the regressor ends in ReLU. False: it ends in batch norm, for a teacher with negative
            values in its stages (pre-activation ResNets, linear bottlenecks).

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
                f"no stage {stage}: the student has {of_student} stages, the teacher {of_teacher}; "
                f"use {-both} to {both - 1}"
            )
        self.stage = stage
        channels = teacher.stages[stage].shape[1]
        self.regressor = nn.Sequential(
            nn.Conv2d(student.stages[stage].shape[1], channels, 1, bias=False),
            nn.BatchNorm2d(channels, track_running_stats=False),  # it is used in training only
            nn.ReLU() if relu else nn.Identity(),
        )

    def forward(self, batch: Batch, output: Output) -> Tensor:
        """Return the loss of a batch, a scalar."""
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
    """Distances and angles between a batch's embeddings (Park et al. 2019).

    The loss is `distance` x D + `angle` x A. D is the Huber loss between the student's and the teacher's
    distances of two pictures. Each model's distances are first divided by their mean over the batch. A is the
    Huber loss between the student's and the teacher's cosines of the angles in triangles of pictures. D is a
    mean over all pairs, A over all triples within a group. As in the published code, pairs of a picture with
    itself are included, which adds zeros. The embeddings of student and teacher may differ in width. A batch
    of one picture has no distances, and one of two has no angles: these terms are 0.

    The published weights, with cross_entropy at weight 1, are 25 and 50.

    Args:
        distance: Weight of the distances.
        angle: Weight of the angles.
        group: Number of pictures in a group. Groups are consecutive parts of the batch; the last may be
            smaller. Triples are formed within a group only, because all triples of B pictures cost O(B^3). 64
            is the batch size of the published benchmarks, so that their batches are one group.

    Raises:
        ConfigError: If there is no teacher.
    """
    # Distances from inner products lose digits if two pictures are near each other, so float64 is used.
    # Differences of all pairs, (B, B, D), would not lose digits, but take several times as long.
    student, teacher = _products(output.embedding), _products(_taught(batch.teacher, "rkd").embedding)
    distances = F.smooth_l1_loss(_relative(_distances(student)), _relative(_distances(teacher)))
    groups = [slice(start, start + group) for start in range(0, len(student), group)]
    angles = [
        F.smooth_l1_loss(_angles(student[g, g]), _angles(teacher[g, g]), reduction="sum") for g in groups
    ]
    triples = sum(len(student[g]) ** 3 for g in groups)
    return (distance * distances + angle * sum(angles) / triples).to(_precise(output.embedding).dtype)


def readable_logits(output: Output, teacher: Output) -> Tensor:
    """Return a student's logits at a scale that suits a temperature.

    The scale of a cosine head (such as 64) is chosen for training with a margin and is no measure of
    confidence: divided by T = 4 it would act as another temperature. So a student's cosines are multiplied by
    another scale. If the teacher has cosines, too, it is the teacher's calibrated scale. Otherwise it is
    `least_scale`, 9.1 for 100 classes. The logits of other heads are returned unchanged.

    Returns:
        (B, C), float32 or float64.
    """
    if output.cosines is None:
        return _precise(output.logits)
    least = least_scale(output.cosines.shape[1])
    return (least if teacher.cosines is None else teacher.scale) * _precise(output.cosines)


def _taught(teacher: Output | None, loss: str) -> Output:
    if teacher is None:
        raise ConfigError(f"{loss} learns from a teacher; set teacher.run=<a run's name>", ("teacher",))
    return teacher


def _precise(values: Tensor) -> Tensor:
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean KL(teacher || student) over two batches of logits.

    Both are (B, C).
    """
    return F.kl_div(student.log_softmax(1), teacher.log_softmax(1), reduction="batchmean", log_target=True)


def _decoupled(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return logits for the label against the rest, and for the rest.

    The first are (B, 2): of the label, and of all other classes together. The second are (B, C - 1): of each
    other class.
    """
    columns = torch.arange(logits.shape[1] - 1, device=logits.device)
    rest = logits.gather(1, columns + (columns >= labels[:, None]))
    return torch.cat([logits.gather(1, labels[:, None]), rest.logsumexp(1, keepdim=True)], 1), rest


def _shrunk(maps: Tensor, height: int, width: int) -> Tensor:
    """Average (B, C, h, w) maps down to (B, C, height, width)."""
    # Skipped if nothing shrinks, because the gradient of adaptive pooling is not deterministic on a GPU.
    return maps if maps.shape[-2:] == (height, width) else F.adaptive_avg_pool2d(maps, (height, width))


def _products(embedding: Tensor) -> Tensor:
    """Return the inner products of embeddings, (B, D) to (B, B) float64.

    The first embedding is subtracted from all embeddings beforehand. Distances and angles do not depend on
    it.
    """
    offsets = embedding.double() - embedding[:1].double()
    return offsets @ offsets.mT


def _distances(products: Tensor) -> Tensor:
    """Return (B, B) Euclidean distances from inner products.

    The distance of points that coincide is 0, and no gradient flows through it.
    """
    squares = products.diagonal()
    squared = squares + squares[:, None] - 2 * products
    apart = squared > _COINCIDENT**2 * squared.mean()
    return torch.where(apart, torch.where(apart, squared, 1).sqrt(), 0)


def _relative(distances: Tensor) -> Tensor:
    """Divide (B, B) distances by the mean of the nonzero ones."""
    total = distances.sum()
    return distances * (distances > 0).sum() / torch.where(total > 0, total, 1)


def _angles(products: Tensor) -> Tensor:
    """Return the cosines of all angles, from inner products.

    Entry [j, i, k] of (B, B, B) is the cosine of the angle at j between i and k. It is 0 if j coincides with
    i or k.
    """
    distances = _distances(products)
    inverse = 1 / torch.where(distances > 0, distances, torch.inf)
    at_j = products - products[:, :, None] - products[:, None] + products.diagonal()[:, None, None]
    return at_j * inverse[:, :, None] * inverse[:, None]
