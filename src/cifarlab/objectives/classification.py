"""Losses over classes: cross-entropy, and losses with a margin between classes.

The margin losses need hard labels: one class per picture. A recipe that mixes pictures cannot use them.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from cifarlab.core.batch import Batch, Output
from cifarlab.core.errors import ConfigError
from cifarlab.core.registries import LOSSES

# Cosines are clamped to (-1, 1) by this margin before acos. Rounding may put the cosine of aligned vectors
# above 1, where acos is NaN. The clamp also bounds the slope, 1 / sin(theta), at 710, its value at a
# thousandth of a radian from the class's direction.
_INSIDE = 1e-6
# A multiplied angle can be learnt only after the plain angle. So the margin is mixed into the plain cosine: 1
# part to _EASE at the start, with ten times less of the plain cosine after each tenth of the run.
_EASE = 1000.0
_PROBABILITY = 0.99  # the probability that a class can reach at the least scale

Times = Annotated[
    int,
    Field(ge=1, le=8, description="Factor of the angle to the class of the label. 1: no margin."),
]
MarginWarmup = Annotated[float, Field(ge=0, le=1)]
Softness = Annotated[
    float,
    Field(
        ge=0,
        description=(
            "Parts of cos(theta) that are mixed with one part of cos(margin x theta) in the end. There are "
            "1,000 parts at the start, as in the annealing of Liu et al. (2016, 2017), and a tenth as many "
            "after each tenth of the run, down to this number. 0: cos(margin x theta) alone, from the start."
        ),
    ),
]


def least_scale(num_classes: int) -> float:
    """Return the least scale of cosines that allows a probability of 0.99.

    Logits are scale x cosines. For P = 0.99 and C classes the scale is (C - 1) / C x ln((C - 1) P / (1 - P))
    (Wang et al. 2018): 6.1 for 10 classes, 9.1 for 100.
    """
    others = num_classes - 1
    return others / num_classes * math.log(others * _PROBABILITY / (1 - _PROBABILITY))


@LOSSES.register(soft_targets=False, needs_cosines=True, reads_scale=True)
def arcface(
    batch: Batch,
    output: Output,
    *,
    margin: Annotated[float, Field(ge=0, le=math.pi / 2)] = 0.5,
    gradient: Literal["exact", "straight_through"] = "exact",
    warmup: MarginWarmup = 0.0,
) -> Tensor:
    """Additive angular margin (Deng et al. 2019).

    Theta is the angle between a picture's embedding and the direction of its class. The loss is cross-entropy
    with cos(theta + margin) in place of cos(theta). It needs hard labels and a head that outputs cosines,
    such as `margin`.

    With the exact gradient, a picture is pulled to its class sin(theta + margin) / sin(theta) times as
    strongly as it is pushed from the other classes. When training begins, theta is about 90 degrees and this
    factor is below 1. The excess push is common to all pictures. It can drive all embeddings to the side
    opposite to all class directions (docs/results/reproduce.md). The straight-through gradient avoids this.

    Args:
        margin: Angle in radians that is added to theta.
        gradient: How the label's logit is differentiated. exact: the derivative of cos(theta + margin). If
            theta + margin exceeds pi, the value continues as cos(theta) - margin x sin(margin), so that a
            larger angle never costs less. straight_through: as in InsightFace, the value is cos(theta +
            margin), but the gradient is that of cos(theta), which has the right sign at every angle.
        warmup: Share of the run over which the margin grows linearly from 0 (Wang et al. 2023). 0: the whole
            margin from the start.

    Raises:
        ConfigError: If the head gives no cosines.
    """
    cosines = _cosines(output, "arcface")
    grown = _grown(margin, warmup, batch.progress)
    target = cosines.gather(1, batch.labels[:, None])
    theta = target.clamp(-1 + _INSIDE, 1 - _INSIDE).acos()
    shifted = (theta + grown).cos()
    if gradient == "straight_through":
        shifted = target + (shifted - target).detach()
    else:
        shifted = torch.where(theta <= math.pi - grown, shifted, target - grown * _sine(grown))
    return F.cross_entropy(output.scale * cosines.scatter(1, batch.labels[:, None], shifted), batch.labels)


@LOSSES.register(soft_targets=False, needs_cosines=True, reads_scale=True)
def cosface(
    batch: Batch,
    output: Output,
    *,
    margin: Annotated[float, Field(ge=0, le=2)] = 0.4,
    warmup: MarginWarmup = 0.0,
) -> Tensor:
    """Additive cosine margin (Wang et al. 2018).

    The loss is cross-entropy with cos(theta) - margin in place of cos(theta), where theta is the angle
    between a picture's embedding and the direction of its class. It needs hard labels and a head that outputs
    cosines, such as `margin`.

    Args:
        margin: Number that is subtracted from the cosine of the label's class.
        warmup: Share of the run over which the margin grows linearly from 0 (Wang et al. 2023). 0: the whole
            margin from the start.

    Raises:
        ConfigError: If the head gives no cosines.
    """
    cosines = _cosines(output, "cosface")
    shifted = cosines.gather(1, batch.labels[:, None]) - _grown(margin, warmup, batch.progress)
    return F.cross_entropy(output.scale * cosines.scatter(1, batch.labels[:, None], shifted), batch.labels)


@LOSSES.register(soft_targets=False, needs_cosines=True)
def sphereface(batch: Batch, output: Output, *, margin: Times = 4, softness: Softness = 5.0) -> Tensor:
    """Multiplicative angular margin (Liu et al. 2017).

    Theta is the angle between a picture's embedding and the direction of its class. The loss is cross-entropy
    with cos(margin x theta) in place of cos(theta). Where margin x theta exceeds pi, the cosine is replaced
    by a continuation that goes on decreasing. Early in training it is mixed with cos(theta). The loss needs
    hard labels and a head that outputs cosines, such as `margin`. The logits are the embedding's length x
    cosine. The head's scale is used in evaluation only.

    Args:
        margin: Factor of the angle to the class of the label. 1: no margin.
        softness: Parts of cos(theta) that are mixed with one part of cos(margin x theta) in the end. There
            are 1,000 parts at the start, as in the annealing of Liu et al. (2016, 2017), and a tenth as many
            after each tenth of the run, down to this number. 0: cos(margin x theta) alone, from the start.

    Raises:
        ConfigError: If the head gives no cosines.
    """
    cosines = _cosines(output, "sphereface")
    length = output.embedding.float().norm(dim=1, keepdim=True)
    target = cosines.gather(1, batch.labels[:, None])
    eased = _eased(target, margin, softness, batch.progress)
    return F.cross_entropy(length * cosines.scatter(1, batch.labels[:, None], eased), batch.labels)


@LOSSES.register(soft_targets=False, needs_products=True, reads_logits=False)
def lsoftmax(batch: Batch, output: Output, *, margin: Times = 4, softness: Softness = 5.0) -> Tensor:
    """Large-margin softmax, with a multiplied angle (Liu et al. 2016).

    It is sphereface with other logits: inner products of the embedding and the class's weight vector. They
    depend on the vector's length, too. Theta is the angle between a picture's embedding and the weight vector
    of its class. The loss needs hard labels and `model.head={name: linear, bias: false}`, whose logits are
    these products. The head `margin` does not suit it, since that head ignores the vector's length when it
    classifies. The head's dropout has no effect on this loss.

    Args:
        margin: Factor of the angle to the class of the label. 1: no margin.
        softness: Parts of cos(theta) that are mixed with one part of cos(margin x theta) in the end. There
            are 1,000 parts at the start, as in the annealing of Liu et al. (2016, 2017), and a tenth as many
            after each tenth of the run, down to this number. 0: cos(margin x theta) alone, from the start.

    Raises:
        ConfigError: If the head's logits have a bias or are cosines.
    """
    if output.weight is None or output.cosines is not None:
        raise ConfigError("lsoftmax needs logits without bias; set model.head={name: linear, bias: false}",
                          ("model", "head"))  # fmt: skip
    embedding, weight = output.embedding.float(), output.weight.float()
    with torch.autocast(embedding.device.type, enabled=False):
        logits = embedding @ weight.t()
    lengths = weight[batch.labels].norm(dim=1, keepdim=True) * embedding.norm(dim=1, keepdim=True)
    target = logits.gather(1, batch.labels[:, None]) / lengths.clamp_min(torch.finfo(lengths.dtype).tiny)
    eased = lengths * _eased(target, margin, softness, batch.progress)
    return F.cross_entropy(logits.scatter(1, batch.labels[:, None], eased), batch.labels)


def _grown(margin: float, warmup: float, progress: float | Tensor) -> float | Tensor:
    """Return the margin at the run's `progress`.

    During `warmup` the margin grows linearly from 0. `progress` and `warmup` are shares of the run.
    """
    if not warmup:
        return margin
    # progress may be a tensor on the device. A Python branch on it would wait for the device.
    return margin * torch.as_tensor(progress / warmup).clamp(max=1)


def _sine(angle: float | Tensor) -> float | Tensor:
    return angle.sin() if isinstance(angle, Tensor) else math.sin(angle)


def _eased(cosines: Tensor, margin: int, softness: float, progress: float | Tensor) -> Tensor:
    """Mix cos(margin x theta) with cos(theta), whose share falls in training.

    The result is (`_multiplied` + ease x cos(theta)) / (1 + ease). During the run, ease falls from _EASE to
    `softness`.
    """
    if not softness:
        return _multiplied(cosines, margin)
    # progress may be a tensor on the device. A Python branch on it would wait for the device.
    ease = torch.as_tensor(_EASE * 10 ** (-10 * progress)).clamp(min=softness)
    return (_multiplied(cosines, margin) + ease * cosines) / (1 + ease)


def _multiplied(cosines: Tensor, times: int) -> Tensor:
    """Return cos(times x theta), continued so that it decreases in theta.

    It is (-1)^k cos(times x theta) - 2k with k = floor(times x theta / pi), which falls from 1 at theta = 0
    to 1 - 2 x times at pi. The cosine is computed as a Chebyshev polynomial of cos(theta), because its
    derivative is finite at every angle, unlike that of acos.
    """
    before, this = torch.ones_like(cosines), cosines
    for _ in range(times - 1):
        before, this = this, 2 * cosines * this - before
    with torch.no_grad():
        turns = (cosines.clamp(-1, 1).acos() * times / math.pi).floor().clamp(max=times - 1)
    return (1 - 2 * (turns % 2)) * this - 2 * turns


def _cosines(output: Output, loss: str) -> Tensor:
    if output.cosines is None:
        raise ConfigError(f"{loss} needs a head that gives cosines; set model.head=margin", ("model", "head"))
    return output.cosines.float()


@LOSSES.register
def cross_entropy(
    batch: Batch, output: Output, *, smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
) -> Tensor:
    """Cross-entropy, optionally with label smoothing.

    Args:
        smoothing: Share of each target that is spread evenly over all classes (Szegedy et al. 2016). 0: none.
    """
    return F.cross_entropy(output.logits.float(), batch.targets, label_smoothing=smoothing)
