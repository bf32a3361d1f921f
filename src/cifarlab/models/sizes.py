"""Training at several picture sizes: the size of each picture, and a forward pass at each size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import accumulate

import torch
from torch import Tensor

from cifarlab.config import Config
from cifarlab.core.batch import Output
from cifarlab.core.random import hash_ints, label_key
from cifarlab.models.backbones import unfit
from cifarlab.models.classifier import Classifier

# For each size the rows of a batch that are trained at it, as nested tuples so that it is hashable. None is
# `data.image_size`.
Sizes = tuple[tuple[int | None, tuple[range, ...]], ...]


def sizes_of_batch(config: Config, count: int, epoch: int, step: int, total_steps: int, place: int) -> Sizes:
    """Return the training sizes of a batch's pictures.

    Without `data.multi_scale` every picture has the size `data.image_size`.

    Args:
        config: The run's configuration.
        count: Number of pictures in the batch.
        epoch: Epoch of the batch.
        step: Step, counted from the start of the run.
        total_steps: Number of steps of the run.
        place: Position of the batch's first picture in the epoch's order.

    Returns:
        (size, rows) for each size: the side length in pixels, and the batch's rows that are trained at it, as
        ranges. Size None stands for `data.image_size`.
    """
    scale, whole = config.data.multi_scale, (range(count),)
    if scale is None:
        return ((None, whole),)
    if scale.per == "batch":
        return ((size_of_step(scale.sizes, config.train.seed, step), whole),)
    if scale.per == "stage":
        return ((size_of_stage(scale.sizes, step, total_steps, shares=scale.shares), whole),)
    groups = size_groups(scale.sizes, place, count, epoch)
    return tuple((size, tuple(rows)) for size, rows in groups.items())


def forward_at_sizes(model: Callable[..., Output], images: Tensor, sizes: Sizes) -> Output:
    """Run the model on a training batch with pictures of several sizes.

    The model is called once for each size. A batch has several sizes with `per: sample` in
    `data.multi_scale`. Batch norm treats each call as a batch of its own: it normalises by the pictures of
    one size, and its running statistics are updated once for each size. Losses that read feature maps cannot
    be used then, because maps of several sizes have no common shape; the configuration refuses them.

    Args:
        model: Maps (images, size) to an Output.
        images: (B, 3, H, W).
        sizes: As `sizes_of_batch` returns them.

    Returns:
        One output with the rows in the order of `images`.
    """
    device = images.device
    rows = [
        torch.cat([torch.arange(part.start, part.stop, part.step, device=device) for part in parts])
        for _, parts in sizes
    ]
    outputs = [model(images[group], size) for group, (size, _) in zip(rows, sizes, strict=True)]
    return put_in_order(outputs, torch.cat(rows))


def size_of_step(sizes: Sequence[int], seed: int, step: int) -> int:
    """Return one of `sizes` at random, determined by seed and step alone."""
    return sizes[hash_ints(seed, label_key("image size"), step) % len(sizes)]


def size_of_stage(
    sizes: Sequence[int], step: int, total_steps: int, *, shares: Sequence[float] | None = None
) -> int:
    """Return the training size of a step, with one stage per size.

    The run is divided into stages in the order of `sizes`. Small pictures first is progressive learning (Tan
    and Le 2021, EfficientNetV2), here with the same augmentation in every stage.

    Args:
        sizes: Side lengths in pixels, by stage.
        step: Step, counted from the start of the run.
        total_steps: Number of steps of the run.
        shares: Share of the steps for each stage, with a sum of 1. None: equal shares.
    """
    if shares is None:
        return sizes[step * len(sizes) // total_steps]
    # Rounded, because 0.1 + 0.2 is slightly above 0.3 and would begin a stage one step late.
    begun = sum(step >= round(total_steps * share, 6) for share in accumulate(shares[:-1]))
    return sizes[begun]


def size_groups(sizes: Sequence[int], place: int, count: int, epoch: int) -> dict[int, list[range]]:
    """Return the rows of a batch, grouped by training size.

    The picture at position q of the epoch's order is trained at sizes[(q + epoch) mod n]. So each size gets 1
    / n of the pictures, for any batch size. In a shuffled order these pictures are random. In an unshuffled
    order each picture takes the sizes in turn, epoch by epoch. If n divides the batch size, all groups have
    equally many pictures, so that few tensor shapes occur.

    Batch norm cannot normalise a group of one picture, so such a picture joins the group of the next size.
    This happens only in batches of fewer than 2 n pictures, such as the last batch of an epoch.

    Args:
        sizes: The n side lengths in pixels.
        place: Position of the batch's first picture in the epoch's order.
        count: Number of pictures in the batch.
        epoch: Epoch of the batch.

    Returns:
        {size: rows of the batch, as ranges}.
    """
    num = len(sizes)
    starts = [(i - place - epoch) % num for i in range(num)]
    groups = {
        size: [range(start, count, num)] for size, start in zip(sizes, starts, strict=True) if start < count
    }
    for i, size in enumerate(sizes):
        if sum(map(len, groups.get(size, ()))) == 1 and len(groups) > 1:
            lone = groups.pop(size)
            following = next(other for other in (*sizes[i + 1 :], *sizes[:i]) if other in groups)
            groups[following] += lone
    return groups


def put_in_order(outputs: Sequence[Output], rows: Tensor) -> Output:
    """Merge several outputs into one, with rows in the batch's order.

    The head's scale and weight are the same in all outputs, and are taken from the first.

    Args:
        outputs: Outputs of parts of the batch.
        rows: (B,) int64. Row i of the concatenated outputs belongs to row rows[i] of the batch.
    """
    first, order = outputs[0], rows.argsort()
    assert not first.stages, "feature maps of several sizes are refused"
    cosines = [output.cosines for output in outputs if output.cosines is not None]
    return replace(
        first,
        logits=torch.cat([output.logits for output in outputs])[order],
        embedding=torch.cat([output.embedding for output in outputs])[order],
        cosines=torch.cat(cosines)[order] if cosines else None,
    )


@torch.no_grad()
def check_sizes(model: Classifier, name: str, sizes: Sequence[int], path: tuple[str, ...]) -> None:
    """Check that a blank picture of each size gives finite logits.

    Args:
        model: The classifier.
        name: Name of its backbone, for the message.
        sizes: Side lengths in pixels.
        path: Key path of the option that asks for the sizes. It becomes the path of the error.

    Raises:
        ConfigError: The model fails at a size, or its logits are not finite.
    """
    device = next(model.parameters()).device
    was_training = model.training
    for size in sizes:
        try:
            logits = model.eval()(torch.zeros(1, 3, size, size, device=device), size).logits
            if not logits.isfinite().all():
                raise ValueError("its logits are not finite")
        except Exception as error:  # a model may raise anything at a size that it does not support
            raise unfit(name, size, error, path=path) from error
        finally:
            model.train(was_training)
