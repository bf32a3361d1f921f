"""Losses: a `Batch` and an `Output` to one number, in float32 whatever the autocast."""

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


@LOSSES.register
def cross_entropy(
    batch: Batch, output: Output, *, smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
) -> Tensor:
    """Cross-entropy; smoothing: the share of each target spread over all classes (Szegedy et al. 2016)."""
    return F.cross_entropy(output.logits.float(), batch.targets, label_smoothing=smoothing)


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


def _cosines(output: Output, loss: str) -> Tensor:
    if output.cosines is None:
        raise ConfigError(f"{loss} needs a head that gives cosines; say model.head=margin", ("model", "head"))
    return output.cosines.float()
