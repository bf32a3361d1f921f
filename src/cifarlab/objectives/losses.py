"""Losses of logits: a `Batch` and an `Output` to one number, in float32 whatever the autocast."""

from __future__ import annotations

from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from cifarlab.core.batch import Batch, Output
from cifarlab.core.registries import LOSSES


@LOSSES.register
def cross_entropy(
    batch: Batch, output: Output, *, smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
) -> Tensor:
    """Cross-entropy; smoothing: the share of each target spread over all classes (Szegedy et al. 2016)."""
    return F.cross_entropy(output.logits.float(), batch.targets, label_smoothing=smoothing)
