"""Scores of a split: clean pictures, evaluation mode."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cifarlab.data.splits import Split
from cifarlab.device import Precision
from cifarlab.records import Output

# Large batches keep the device busy; at 224 px a batch must shrink so that activations fit beside the
# training state.
PIXELS_PER_BATCH = 500 * 64 * 64


def logits_of(
    model: nn.Module, split: Split, precision: Precision, image_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (logits (B, C) float32, labels (B,)) over the split, in order and in evaluation mode.

    image_size: pixels a side that the model sees.
    """
    for output, labels in outputs_of(model, split, precision, image_size):
        yield output.logits.float(), labels


@torch.inference_mode()
def outputs_of(
    model: nn.Module, split: Split, precision: Precision, image_size: int
) -> Iterator[tuple[Output, Tensor]]:
    """As `logits_of`, with all that the model answers, in its own arithmetic."""
    size = max(1, min(500, PIXELS_PER_BATCH // image_size**2))
    was_training = model.training
    model.eval()
    try:
        for positions in torch.arange(len(split), device=split.rows.device).split(size):
            images, labels, _ = split.gather(positions)
            with precision.autocast():
                output = model(precision.layout(images), image_size)
            yield output, labels
    finally:
        model.train(was_training)


def evaluate(model: nn.Module, split: Split, precision: Precision, image_size: int) -> dict[str, float]:
    """top1 and top5 as fractions, and the mean cross-entropy `loss`; one host sync, at the end."""
    sums = torch.zeros(3, dtype=torch.float64, device=split.labels.device)
    for logits, labels in logits_of(model, split, precision, image_size):
        top = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
        loss = F.cross_entropy(logits, labels, reduction="sum")
        sums += torch.stack([top[:, 0].sum(), top.any(1).sum(), loss.to(sums.dtype)])
    top1, top5, loss = (sums / len(split)).tolist()
    return {"top1": top1, "top5": top5, "loss": loss}
