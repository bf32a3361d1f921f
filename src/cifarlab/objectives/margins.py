"""Losses that ask for a margin between classes: on angles, and between the embeddings of a batch."""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from cifarlab.records import Batch, Output
from cifarlab.registry import LOSSES, ConfigError

# acos is taken this far inside (-1, 1): rounding puts the cosine of aligned vectors above 1, where it is NaN.
# Its slope, 1 / sin(theta), is so bounded at 710, a thousandth of a radian from the class's direction.
_INSIDE = 1e-6
# Below this a distance has no slope: that of a root is infinite at 0.
_NO_DISTANCE = 1e-12
# A multiplied angle can be learned only after the angle itself: the margin is mixed into the plain cosine,
# 1 part to EASE at the start, ten times as much with each tenth of the run.
EASE = 1000.0

Times = Annotated[int, Field(ge=1, le=8)]
Softness = Annotated[float, Field(ge=0)]


@LOSSES.register(soft_targets=False, needs_cosines=True)
def arcface(
    batch: Batch,
    output: Output,
    *,
    margin: Annotated[float, Field(ge=0, le=math.pi / 2)] = 0.5,
    gradient: Literal["exact", "straight_through"] = "exact",
) -> Tensor:
    """Additive angular margin in radians (Deng et al. 2019), on hard labels; needs a head with cosines.

    exact: differentiates cos(theta + margin); where theta + margin passes pi it goes on as cos(theta) -
    margin x sin(margin), so that a larger angle never costs less. straight_through: InsightFace's form, the
    value cos(theta + margin) with the gradient of cos(theta), which has the right sign at every angle.
    """
    cosines = _cosines(output, "arcface")
    target = cosines.gather(1, batch.labels[:, None])
    theta = target.clamp(-1 + _INSIDE, 1 - _INSIDE).acos()
    shifted = (theta + margin).cos()
    if gradient == "straight_through":
        shifted = target + (shifted - target).detach()
    else:
        shifted = torch.where(theta <= math.pi - margin, shifted, target - margin * math.sin(margin))
    return F.cross_entropy(output.scale * cosines.scatter(1, batch.labels[:, None], shifted), batch.labels)


@LOSSES.register(soft_targets=False, needs_cosines=True)
def cosface(batch: Batch, output: Output, *, margin: Annotated[float, Field(ge=0, le=2)] = 0.4) -> Tensor:
    """Additive cosine margin (Wang et al. 2018), on hard labels; needs a head with cosines."""
    cosines = _cosines(output, "cosface")
    shifted = cosines.gather(1, batch.labels[:, None]) - margin
    return F.cross_entropy(output.scale * cosines.scatter(1, batch.labels[:, None], shifted), batch.labels)


@LOSSES.register(soft_targets=False, needs_cosines=True)
def sphereface(batch: Batch, output: Output, *, margin: Times = 4, softness: Softness = 5.0) -> Tensor:
    """Multiplied angle (Liu et al. 2017), on hard labels; needs a head with cosines.

    The label's cos(theta) becomes cos(margin x theta), continued so that it falls from 0 to pi; logits are
    the embedding's length x cosine, so the head's scale acts in evaluation only. softness: at the end the
    margin is mixed with so many parts of cos(theta), 1,000 at the start, the papers' annealing as a function
    of the run's progress; 0: the margin alone.
    """
    cosines = _cosines(output, "sphereface")
    length = output.embedding.float().norm(dim=1, keepdim=True)
    target = cosines.gather(1, batch.labels[:, None])
    eased = _eased(target, margin, softness, batch.progress)
    return F.cross_entropy(length * cosines.scatter(1, batch.labels[:, None], eased), batch.labels)


@LOSSES.register(soft_targets=False, needs_products=True)
def lsoftmax(batch: Batch, output: Output, *, margin: Times = 4, softness: Softness = 5.0) -> Tensor:
    """Large-margin softmax (Liu et al. 2016), on hard labels; needs `model.head={name: linear, bias: false}`.

    As sphereface, on logits that are the product of embedding and class weight, with both their lengths.
    """
    if output.weight is None:
        raise ConfigError("lsoftmax needs logits without bias; say model.head={name: linear, bias: false}",
                          ("model", "head"))  # fmt: skip
    embedding, weight = output.embedding.float(), output.weight.float()
    with torch.autocast(embedding.device.type, enabled=False):
        logits = embedding @ weight.t()
    own = weight[batch.labels].norm(dim=1, keepdim=True) * embedding.norm(dim=1, keepdim=True)
    own = own.clamp_min(_NO_DISTANCE)
    target = (logits.gather(1, batch.labels[:, None]) / own).clamp(-1, 1)
    eased = own * _eased(target, margin, softness, batch.progress)
    return F.cross_entropy(logits.scatter(1, batch.labels[:, None], eased), batch.labels)


def _eased(cosines: Tensor, margin: int, softness: float, progress: float) -> Tensor:
    """(cos(margin x theta), continued, + ease x cos(theta)) / (1 + ease)."""
    ease = max(softness, EASE * 10 ** (-10 * progress)) if softness else 0.0
    return (_multiplied(cosines, margin) + ease * cosines) / (1 + ease)


def _multiplied(cosines: Tensor, times: int) -> Tensor:
    """(-1)^k cos(times x theta) - 2k with k = floor(times x theta / pi): falls from 1 at 0 to 1 - 2 x times.

    A polynomial of the cosine (Chebyshev's): its slope is finite at every angle, that of acos is not.
    """
    before, this = torch.ones_like(cosines), cosines
    for _ in range(times - 1):
        before, this = this, 2 * cosines * this - before
    with torch.no_grad():
        turns = (cosines.clamp(-1, 1).acos() * times / math.pi).floor().clamp(max=times - 1)
    return (1 - 2 * (turns % 2)) * this - 2 * turns


def _cosines(output: Output, loss: str) -> Tensor:
    if output.cosines is None:
        raise ConfigError(f"{loss} needs a head that gives cosines; say model.head=margin", ("model", "head"))
    return output.cosines.float()


@LOSSES.register(soft_targets=False)
def triplet(batch: Batch, output: Output, *, margin: Annotated[float, Field(gt=0)] | None = 0.2) -> Tensor:
    """Batch-hard triplets (Hermans et al. 2017) of embeddings of length 1, beside a classifying loss.

    Each picture's farthest neighbour of its class in the batch should be nearer, by `margin` (distances run
    to 2), than the nearest of another class; margin null: softplus in place of the hinge. The mean is over
    pictures that have both; without any the loss is 0.
    """
    distances = (2 - 2 * _similarities(output)).clamp_min(_NO_DISTANCE).sqrt()
    same, others = _pairs(batch.labels)
    farthest = distances.masked_fill(~same, -1).amax(1)
    nearest = distances.masked_fill(others.logical_not(), 3).amin(1)
    lead = farthest - nearest
    losses = F.softplus(lead) if margin is None else (lead + margin).clamp_min(0)
    return _mean_over(losses, same.any(1) & others.any(1))


@LOSSES.register(soft_targets=False)
def supcon(batch: Batch, output: Output, *, temperature: Annotated[float, Field(gt=0)] = 0.1) -> Tensor:
    """Supervised contrastive loss (Khosla et al. 2020, L_out) within a batch, beside a classifying loss.

    Cosines of embeddings over the temperature; a picture's positives are the others of its class in the batch
    (2.5 of 250 with 100 classes). The mean is over pictures that have one; without any the loss is 0.
    """
    same, others = _pairs(batch.labels)
    itself = ~(same | others)
    logits = (_similarities(output) / temperature).masked_fill(itself, -torch.inf)
    # -inf x 0 is NaN: a picture is no positive of its own.
    logp = logits.log_softmax(1).masked_fill(itself, 0)
    losses = -(logp * same).sum(1) / same.sum(1).clamp_min(1)
    return _mean_over(losses, same.any(1))


def _similarities(output: Output) -> Tensor:
    """(B, B) float32: the cosine of each two embeddings."""
    embedding = F.normalize(output.embedding.float())
    with torch.autocast(embedding.device.type, enabled=False):
        return embedding @ embedding.t()


def _pairs(labels: Tensor) -> tuple[Tensor, Tensor]:
    """(B, B) bool, twice: pairs of two pictures of one class, and of two classes."""
    equal = labels[:, None] == labels
    return equal & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device), ~equal


def _mean_over(losses: Tensor, counted: Tensor) -> Tensor:
    """The mean of the losses (B,) where `counted` (B,); 0 where nothing is."""
    return (losses * counted).sum() / counted.sum().clamp_min(1)
