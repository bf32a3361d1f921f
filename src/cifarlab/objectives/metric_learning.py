"""Losses on distances between the embeddings of a batch, for hard labels only."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from cifarlab.core.batch import Batch, Output
from cifarlab.core.registries import LOSSES


@LOSSES.register(soft_targets=False, compares=True, reads_logits=False)
def triplet(batch: Batch, output: Output, *, margin: Annotated[float, Field(gt=0)] = 0.2) -> Tensor:
    """Batch-hard triplets (Hermans et al. 2017).

    For each picture, the loss takes the farthest picture of its class in the batch and the nearest picture of
    another class. The first should be nearer than the second, by `margin` or more. Distances are between
    embeddings scaled to length 1, so the largest possible distance is 2. The loss is the mean over the
    pictures that have both kinds of neighbours. If there are none it is 0.

    The loss needs hard labels. It should be combined with a loss that classifies.

    Args:
        margin: Distance by which the farthest picture of the class should be nearer than the nearest of
            another.
    """
    embedding = F.normalize(output.embedding.float())
    same, others = _pairs(batch.labels)
    with torch.no_grad():
        cosines = _cosines_between(embedding)
        farthest = cosines.masked_fill(~same, torch.inf).argmin(1)
        nearest = cosines.masked_fill(~others, -torch.inf).argmax(1)
    # Compute the chosen distances from differences: a cosine near 1 has too few digits for a small distance.
    lead = (embedding - embedding[farthest]).norm(dim=1) - (embedding - embedding[nearest]).norm(dim=1)
    return _mean_over((lead + margin).clamp_min(0), same.any(1) & others.any(1))


@LOSSES.register(soft_targets=False, compares=True, reads_logits=False)
def supcon(batch: Batch, output: Output, *, temperature: Annotated[float, Field(gt=0)] = 0.1) -> Tensor:
    """Supervised contrastive loss (Khosla et al. 2020, L_out).

    A picture's positives are the other pictures of its class in the batch. A batch of 250 pictures with 100
    classes has about 2.5 positives for each picture, so the batch should be large. The loss pulls a picture
    towards its positives and away from all others. Logits are cosines of embeddings divided by the
    temperature. The paper's projection head is left out, and each picture is in the batch once, not in two
    augmented versions. The loss is the mean over the pictures that have a positive. If there are none it is
    0.

    The loss needs hard labels. It should be combined with a loss that classifies.

    Args:
        temperature: Number that the cosines are divided by. The smaller it is, the more weight the most
            similar pictures of other classes get.
    """
    same, others = _pairs(batch.labels)
    itself = ~(same | others)
    logits = _cosines_between(F.normalize(output.embedding.float())) / temperature
    logp = logits.masked_fill(itself, -torch.inf).log_softmax(1)
    losses = -logp.masked_fill(~same, 0).sum(1) / same.sum(1).clamp_min(1)
    return _mean_over(losses, same.any(1))


def _cosines_between(embedding: Tensor) -> Tensor:
    """Return (B, B) cosines of (B, D) embeddings of length 1.

    Autocast is off, so they have the precision of the embeddings.
    """
    with torch.autocast(embedding.device.type, enabled=False):
        return embedding @ embedding.t()


def _pairs(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return (B, B) masks of same-class pairs and of different-class pairs.

    Pairs of a picture with itself are in neither.
    """
    equal = labels[:, None] == labels
    return equal & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device), ~equal


def _mean_over(losses: Tensor, counted: Tensor) -> Tensor:
    """Return the mean of those `losses` (B,) that are `counted`.

    It is 0 if none are.
    """
    return (losses * counted).sum() / counted.sum().clamp_min(1)
