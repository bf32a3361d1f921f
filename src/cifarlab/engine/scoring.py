"""Scoring of a split: pictures without augmentation, the model in evaluation mode."""

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

# Large batches keep the device busy. A CPU's caches hold 64 pictures of 128 px, or 20 of 224 px; larger
# batches are slower there. On a GPU, batches of 224 px must be smaller to fit into memory beside the training
# state.
PIXELS_PER_BATCH = {"cpu": 64 * 128 * 128, "cuda": 256 * 224 * 224}
PICTURES_PER_BATCH = {"cpu": 500, "cuda": 4000}


def logits_of(
    model: nn.Module, split: Split, precision: Precision, image_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield logits and labels of a split, batch by batch, in order.

    The model is in evaluation mode meanwhile.

    Args:
        model: The model.
        split: The split.
        precision: Precision and device.
        image_size: Side length in pixels to which the pictures are resized.

    Yields:
        (logits (B, C) float32, labels (B,)).
    """
    for output, labels in outputs_of(model, split, precision, image_size):
        yield output.logits.float(), labels


@torch.inference_mode()
def outputs_of(
    model: nn.Module, split: Split, precision: Precision, image_size: int
) -> Iterator[tuple[Output, Tensor]]:
    """Yield the `Output` and labels of each batch, like `logits_of`.

    The tensors of the output have the dtype of the model's computation.
    """
    for images, labels in _batches(model, split, image_size):
        yield _answer(model, images, precision, image_size), labels


# Not in inference mode. Older versions of torch create tensors in a process's first capture. If that capture
# is in inference mode, no later capture outside of it may write to them.
@torch.no_grad()
def score_split(
    model: nn.Module,
    split: Split,
    precision: Precision,
    image_size: int,
    *,
    graphs: Graphs | None = None,
    activations: Callable[[Tensor], Tensor] | None = None,
) -> dict[str, float]:
    """Return top1 and top5 as fractions, and the mean cross-entropy `loss`.

    The host waits for the device once, at the end.

    Args:
        model: The model.
        split: The split.
        precision: Precision and device.
        image_size: Side length in pixels to which the pictures are resized.
        graphs: CUDA graphs that capture and replay the scoring of batches. None: nothing is captured.
        activations: Maps positions (B,) in the split to stored activations, which `model` takes in place of
            pictures (see `engine.frozen`). None: the model takes pictures.
    """

    def work(given: Sequence[tuple[Tensor, ...]], reseed: Reseed) -> None:
        reseed(0)  # Nothing is random here, but a graph begins where a seed is set.
        for images, labels, sums in given:
            sums += _sums(_answer(model, images, precision, image_size).logits.float(), labels)

    sums = torch.zeros(3, dtype=torch.float64, device=split.labels.device)
    for images, labels in _batches(model, split, image_size, activations):
        given = [(images, labels, sums)]
        if graphs is None:
            work(given, int)
        else:
            [(*_, sums)] = graphs.run((model, images.shape, image_size), given, [0], work)
    return _means(sums, len(split))


def pictures_per_batch(kind: str, image_size: int) -> int:
    """Return how many pictures are scored at once.

    `kind` is the device type, "cpu" or "cuda"; `image_size` is the side length in pixels.
    """
    return max(1, min(PICTURES_PER_BATCH[kind], PIXELS_PER_BATCH[kind] // image_size**2))


def _batches(
    model: nn.Module, split: Split, image_size: int, activations: Callable[[Tensor], Tensor] | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield inputs and labels of a split, in order.

    The model is in evaluation mode meanwhile. Inputs are uint8 images (B, 3, H, W), or what `activations`
    returns for positions (B,).
    """
    kind = split.labels.device.type
    has_maps = activations is None or activations(torch.zeros(1, dtype=torch.int64)).ndim == 4
    size = pictures_per_batch(kind, image_size) if has_maps else PICTURES_PER_BATCH[kind]
    was_training = model.training
    model.eval()
    try:
        for positions in torch.arange(len(split), device=split.rows.device).split(size):
            if activations is not None:
                yield activations(positions), split.labels[positions.to(split.labels.device)]
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
    """Return logits, labels and the scoring speed of a whole split.

    The first batch is not timed if there are others.

    Returns:
        (logits (N, C) float32, labels (N,), pictures per second).
    """
    said, timed, begun = [], 0, time.monotonic()
    for logits, labels in logits_of(model, split, precision, image_size):
        said.append((logits, labels))
        if len(said) == 1 and len(labels) < len(split):
            # The first pass is slower, so it is not timed if there are others.
            logits.sum().item()  # Wait for the device.
            begun = time.monotonic()
        else:
            timed += len(labels)
    logits, labels = (torch.cat(parts) for parts in zip(*said, strict=True))
    logits.sum().item()
    return logits, labels, timed / (time.monotonic() - begun)


def scores(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Return the scores of `score_split` from collected logits (N, C)."""
    return _means(_sums(logits, labels), len(labels))


def ranked(logits: Tensor) -> Tensor:
    """Return the most probable classes, (N, 5), most probable first.

    With fewer than five classes there are fewer columns. `score_split` uses this function, too, so that ties
    are broken in the same way; ties do occur among bfloat16 logits. The accuracy on training batches uses
    `argmax`, which may break them differently.
    """
    return logits.topk(min(5, logits.shape[1])).indices


def _sums(logits: Tensor, labels: Tensor) -> Tensor:
    top = ranked(logits) == labels[:, None]
    loss = F.cross_entropy(logits, labels, reduction="sum").double()
    return torch.stack([top[:, 0].sum(), top.any(1).sum(), loss])


def _means(sums: Tensor, count: int) -> dict[str, float]:
    return dict(zip(("top1", "top5", "loss"), (sums / count).tolist(), strict=True))
