"""Differences in configuration that may explain an accuracy below the published ones."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from cifarlab.config import Config
from cifarlab.core.registry import Spec
from cifarlab.evaluation.published.figures import Anchor

POLICIES = frozenset({"auto_augment", "rand_augment", "trivial_augment_wide", "aug_mix"})
CUTOUTS = frozenset({"cutout", "coarse_dropout", "random_erasing"})
TRAINING_PICTURES = 50_000


def augmentation(config: Config) -> frozenset[str]:
    """Return the configuration's kinds of augmentation, named as in `Anchor.augment`."""
    names = {spec.name for spec in (*config.data.augment.values(), *_mixers(config.data.mix))}
    kinds = {"crop", "flip", "mixup", "cutmix"} & names
    kinds |= {"policy"} if POLICIES & names else set()
    kinds |= {"cutout"} if CUTOUTS & names else set()
    return frozenset(kinds)


def _mixers(specs: Mapping[str, Spec]) -> Iterator[Spec]:
    """Yield mixers such as mixup with p above 0, also within `one_of`."""
    for spec in specs.values():
        if spec.p:
            yield spec
            yield from _mixers(spec.kwargs().get("choices", {}))


def pretrained(config: Config) -> bool:
    """Tell whether a run starts from trained weights."""
    return bool(getattr(config.model.backbone.options, "pretrained", False)) or config.model.init is not None


def causes(config: Config, anchor: Anchor) -> list[str]:
    """List what may explain an accuracy below the published ones, costliest first.

    These are differences between `config` and the protocol of `anchor`. They are sorted by estimated cost in
    accuracy. A line states a cost only if it was published or measured.
    """
    found = [*_of_model(config, anchor), *_of_data(config, anchor), *_of_optimization(config, anchor)]
    return [line for _, line in sorted(found, key=lambda cause: -cause[0])]


Causes = Iterator[tuple[float, str]]  # estimated cost in points, and description


def _of_model(config: Config, anchor: Anchor) -> Causes:
    options, size = config.model.backbone.options, config.data.image_size
    if anchor.pretrained and not pretrained(config):
        yield (
            22,
            f"no pretrained weights (published: {anchor.pretrained}); set model.backbone.pretrained=true",
        )
    if size < anchor.image_size:
        is_tutorials = size <= 64 and anchor.image_size == 224
        yield (
            20 if size <= 64 else 1,
            f"pictures seen at {size} pixels, not {anchor.image_size}"
            f"{' (about 20 points in the tutorial)' if is_tutorials else ''}; "
            f"set data.image_size={anchor.image_size}",
        )
    elif anchor.image_size == 32 and size <= 64 and getattr(options, "stem", None) == "imagenet":
        yield (
            16,
            "a stem for 224 pixels, which leaves a last feature map of one cell (about 16 points, timm issue "
            "2481); set model.backbone.stem=cifar",
        )
    if pretrained(config) and config.model.normalize == "none":
        yield (
            1,
            "pretrained weights without their mean and standard deviation; set model.normalize=pretrained",
        )
    losses = {spec.name for spec in config.objective.values()}
    if anchor.distilled and anchor.distilled not in losses:
        yield 2, f"no teacher (published: {anchor.distilled})"


def _of_data(config: Config, anchor: Anchor) -> Causes:
    data, missing = config.data, anchor.augment - augmentation(config)
    held_out = data.held_out(TRAINING_PICTURES)
    used = min(data.limit or TRAINING_PICTURES, TRAINING_PICTURES - held_out)
    if used < TRAINING_PICTURES:
        keys = [*(["data.limit"] if data.limit else []), *(["data.val"] if held_out else [])]
        yield (
            10 * math.log2(TRAINING_PICTURES / used),
            f"trained on {used:,} of {TRAINING_PICTURES:,} pictures ({' and '.join(keys)})",
        )
    if {"crop", "flip"} <= missing:
        yield 14, "no crop, no flip; set data.augment={crop: {padding: 4}, flip: {p: 0.5}}"
    else:
        for kind in sorted(missing & {"crop", "flip"}):
            yield 5, f"no {kind}"
    worth = {"policy": 2.9, "cutmix": 3.0, "mixup": 2.1, "cutout": 0.5}
    for kind in sorted(missing & worth.keys()):
        yield worth[kind], f"no {kind}"
    if data.freeze_views and data.augment:
        yield 12, "every epoch shows the same augmented pictures; set data.freeze_views=false"
    if not data.shuffle:
        yield 2.5, "the same batches in the same order every epoch; set data.shuffle=true"


def _of_optimization(config: Config, anchor: Anchor) -> Causes:
    optim, epochs = config.optim, config.train.epochs
    if optim.schedule.name == "constant" and anchor.epochs and anchor.epochs > 10:
        yield 5.5, "a learning rate that never falls; set optim.schedule=cosine"
    if anchor.epochs and epochs < anchor.epochs:
        yield 2.5 * math.log2(anchor.epochs / epochs), f"{epochs} epochs, not {anchor.epochs}"
        extra = augmentation(config) - anchor.augment
        if epochs <= anchor.epochs / 4 and extra:
            yield 2, f"augmentation too strong for so few epochs ({', '.join(sorted(extra))})"
    if anchor.optimizer == "sgd":
        if optim.optimizer.name != "sgd":
            yield 3, f"{optim.optimizer.name}, not SGD with momentum; set optim.name=sgd optim.lr=0.1"
        elif optim.weight_decay < 1e-4:
            yield 3, f"weight decay {optim.weight_decay:g}, not 5e-4"
        elif optim.weight_decay > 5e-3:
            yield 4, f"weight decay {optim.weight_decay:g}, not 5e-4"
    if anchor.sharpness and optim.sharpness is None:
        yield 2.3, "no SAM; set optim.sharpness=sam"
