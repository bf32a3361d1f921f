"""Training at several sizes: which picture is seen at which, and one `Output` of forwards at each."""

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

# {size: the rows of a batch that are seen at it}, as a key; None is `data.image_size`.
Sizes = tuple[tuple[int | None, tuple[range, ...]], ...]


def sizes_of_batch(config: Config, count: int, epoch: int, step: int, total_steps: int, place: int) -> Sizes:
    """At which sizes of `data.multi_scale` a training batch of `count` pictures is seen.

    step: counted from the start of the run, which has total_steps. place: of the first picture in the epoch's
    order. Without `data.multi_scale` every picture is at `data.image_size`.
    """
    scale, whole = config.data.multi_scale, (range(count),)
    if scale is None:
        return ((None, whole),)
    if scale.per == "batch":
        return ((size_of_step(scale.sizes, config.train.seed, step), whole),)
    if scale.per == "stage":
        return ((size_of_stage(scale.sizes, step, total_steps, scale.shares), whole),)
    groups = size_groups(scale.sizes, place, count, epoch)
    return tuple((size, tuple(rows)) for size, rows in groups.items())


def forward_at_sizes(model: Callable[..., Output], images: Tensor, sizes: Sizes) -> Output:
    """What the model says of a training batch, its pictures at the sizes that `sizes_of_batch` gave it.

    model: (images, size) -> Output. images: (B, 3, H, W), whose rows answer in the same order.

    With `per: sample` the model is called once a size: batch norm takes each call's pictures for a batch of
    its own, so its statistics are those of one size, and its running ones see the sizes in turn. A
    configuration refuses losses that read feature maps there: those of several sizes have no common shape.
    """
    device = images.device
    rows = [
        torch.cat([torch.arange(part.start, part.stop, part.step, device=device) for part in parts])
        for _, parts in sizes
    ]
    outputs = [model(images[group], size) for group, (size, _) in zip(rows, sizes, strict=True)]
    return put_in_order(outputs, torch.cat(rows))


def size_of_step(sizes: Sequence[int], seed: int, step: int) -> int:
    """The size at which the `step`-th batch of a run is trained: random, by (seed, step) alone."""
    return sizes[hash_ints(seed, label_key("image size"), step) % len(sizes)]


def size_of_stage(
    sizes: Sequence[int], step: int, total_steps: int, shares: Sequence[float] | None = None
) -> int:
    """The size at which the `step`-th of a run's steps is trained: each in turn, for its share of them.

    shares: that sum to 1; None: equal ones. Small pictures first is progressive learning (Tan and Le 2021,
    EfficientNetV2), with the augmentation of every stage the same.
    """
    if shares is None:
        return sizes[step * len(sizes) // total_steps]
    # Rounded, or the sum of 0.1 and 0.2 would begin a stage one step late.
    begun = sum(step >= round(total_steps * share, 6) for share in accumulate(shares[:-1]))
    return sizes[begun]


def size_groups(sizes: Sequence[int], place: int, count: int, epoch: int) -> dict[int, list[range]]:
    """{size: its rows} of a batch whose `count` pictures stand at `place` and after in the epoch's order.

    The picture at place q is seen at sizes[(q + epoch) mod n]. The order is random, so each size gets a
    random share of exactly 1 / n, whatever the batch size, and a batch has few shapes (one, where n divides
    it). In an order that is not shuffled, each picture takes the sizes in turn, epoch by epoch. But a group
    of one picture, which batch norm cannot normalise, joins that of the next size (there are such groups only
    in batches of fewer than 2 n pictures, as the last of an epoch may be).
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
    """One output of several. rows: (B,) int64, where in the batch each answer belongs, first to last.

    A head's scale and weight are equal in all of them.
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
    """Ask the model for its answer to one blank picture of each size.

    name: the backbone's. path: of the option that asks for the sizes. Raises ConfigError where there is no
    finite answer.
    """
    device = next(model.parameters()).device
    was_training = model.training
    for size in sizes:
        try:
            logits = model.eval()(torch.zeros(1, 3, size, size, device=device), size).logits
            if not logits.isfinite().all():
                raise ValueError("its answer is not finite")
        except Exception as error:  # whatever a model's arithmetic on its size runs into
            raise unfit(name, size, error, path) from error
        finally:
            model.train(was_training)
