"""Scores of a split: clean pictures, evaluation mode."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cifarlab.core.batch import Output
from cifarlab.core.device import Precision
from cifarlab.data.splits import Split
from cifarlab.engine.graphs import Graphs, Reseed

# Large batches keep the device busy. A CPU's caches hold 64 pictures of 128 px, or 20 of 224; larger batches
# are slower there. On a GPU a batch must shrink at 224 px so that it fits beside the training state.
PIXELS_PER_BATCH = {"cpu": 64 * 128 * 128, "cuda": 256 * 224 * 224}
PICTURES_PER_BATCH = {"cpu": 500, "cuda": 4000}


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
    for images, labels in _batches(model, split, image_size):
        yield _answer(model, images, precision, image_size), labels


# Not in inference mode: older versions of torch made tensors in a process's first capture, and if that was in
# this mode no later capture outside might write to them.
@torch.no_grad()
def score_split(
    model: nn.Module,
    split: Split,
    precision: Precision,
    image_size: int,
    graphs: Graphs | None = None,
    kept: Callable[[Tensor], Tensor] | None = None,
) -> dict[str, float]:
    """top1 and top5 as fractions, and the mean cross-entropy `loss`; one host sync, at the end.

    graphs: batches are captured by them, one for each model and shape; None: they run as written. kept: what
    the model is given in place of the pictures at positions (B,); see `frozen`.
    """

    def work(given: Sequence[tuple[Tensor, ...]], reseed: Reseed) -> None:
        reseed(0)  # Nothing draws here, but a graph begins where a seed is set.
        for images, labels, sums in given:
            sums += _sums(_answer(model, images, precision, image_size).logits.float(), labels)

    sums = torch.zeros(3, dtype=torch.float64, device=split.labels.device)
    for images, labels in _batches(model, split, image_size, kept):
        given = [(images, labels, sums)]
        if graphs is None:
            work(given, int)
        else:
            [(*_, sums)] = graphs.run((model, images.shape, image_size), given, [0], work)
    return _means(sums, len(split))


def pictures_per_batch(kind: str, image_size: int) -> int:
    """How many pictures of image_size pixels a side are scored at once. kind: of the device, cpu or cuda."""
    return max(1, min(PICTURES_PER_BATCH[kind], PIXELS_PER_BATCH[kind] // image_size**2))


def _batches(
    model: nn.Module, split: Split, image_size: int, kept: Callable[[Tensor], Tensor] | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (uint8 images (B, 3, H, W), labels (B,)) of the split, in order, the model in evaluation mode.

    kept: what is yielded in place of images, for positions (B,).
    """
    kind = split.labels.device.type
    has_maps = kept is None or kept(torch.zeros(1, dtype=torch.int64)).ndim == 4
    size = pictures_per_batch(kind, image_size) if has_maps else PICTURES_PER_BATCH[kind]
    was_training = model.training
    model.eval()
    try:
        for positions in torch.arange(len(split), device=split.rows.device).split(size):
            if kept is not None:
                yield kept(positions), split.labels[positions.to(split.labels.device)]
            else:
                images, labels, _ = split.gather(positions)
                yield images, labels
    finally:
        model.train(was_training)


def _answer(model: nn.Module, images: Tensor, precision: Precision, image_size: int) -> Output:
    with precision.autocast():
        return model(precision.layout(images) if images.ndim == 4 else images, image_size)


def collect_outputs(
    model: nn.Module, split: Split, precision: Precision, image_size: int
) -> tuple[Tensor, Tensor, float]:
    """(logits (N, C) float32, labels (N,), pictures a second) of the whole split, as `logits_of`."""
    said, timed, begun = [], 0, time.monotonic()
    for logits, labels in logits_of(model, split, precision, image_size):
        said.append((logits, labels))
        if len(said) == 1 and len(labels) < len(split):
            # The first pass is slower: it is not timed where there are others.
            logits.sum().item()  # Wait for the device.
            begun = time.monotonic()
        else:
            timed += len(labels)
    logits, labels = (torch.cat(parts) for parts in zip(*said, strict=True))
    logits.sum().item()
    return logits, labels, timed / (time.monotonic() - begun)


def scores(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """top1, top5 and loss of logits (N, C) that were collected before."""
    return _means(_sums(logits, labels), len(labels))


def ranked(logits: Tensor) -> Tensor:
    """(N, 5 at most) classes, the most probable first. All scores break ties here: bfloat16 has real ones."""
    return logits.topk(min(5, logits.shape[1])).indices


def _sums(logits: Tensor, labels: Tensor) -> Tensor:
    top = ranked(logits) == labels[:, None]
    loss = F.cross_entropy(logits, labels, reduction="sum").double()
    return torch.stack([top[:, 0].sum(), top.any(1).sum(), loss])


def _means(sums: Tensor, count: int) -> dict[str, float]:
    return dict(zip(("top1", "top5", "loss"), (sums / count).tolist(), strict=True))
