"""Policies: which augmentations run, on which samples."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator
from torch import Tensor

from cifarlab.augment.kernels import Kernel, Lowered, change_, merge_lowered, plan
from cifarlab.core.errors import ConfigError
from cifarlab.core.random import Draws
from cifarlab.core.registries import AUGMENTS, AugmentSpecs
from cifarlab.core.registry import Spec

# The stream of the probability draw, below the part's own: a change of p leaves the part's parameters alone.
PROBABILITY = ".p"


def apply(images: Tensor, draws: Draws, specs: Mapping[str, Spec]) -> Tensor:
    """Run the labelled augmentations in order, each on the samples that its p picks.

    images: (B, 3, H, W) float32 in [0, 1]. draws: of the same samples; each part draws from its label's
    stream.
    """
    for label, spec in specs.items():
        if spec.p == 0:
            continue
        stream = draws.at(label)
        step = plan(spec, images, stream)
        if spec.p == 1:
            images = step(images)
        else:
            images = images.clone()
            change_(images, stream.at(PROBABILITY).bernoulli(spec.p), step)
    return images


def some_weight(choices: dict[str, Spec]) -> dict[str, Spec]:
    """The choices as given. Raises ConfigError if none of them can be chosen."""
    if not any(spec.p for spec in choices.values()):
        raise ConfigError("needs at least one choice with p above 0")
    return choices


@AUGMENTS.register
def one_of(
    images: Tensor, draws: Draws, *, choices: Annotated[AugmentSpecs, AfterValidator(some_weight)]
) -> Tensor:
    """Exactly one of several augmentations for each picture (albumentations' OneOf).

    Choices that do the same operation, such as two warps of equal fill and interpolation, are computed in one
    pass.

    Args:
        choices: The augmentations, {label: options}. The `p` of each is its weight; the weights need not sum
            to 1.
    """
    number = draws.uniform()
    chosen = {label: spec for label, spec in choices.items() if spec.p}
    total = sum(spec.p for spec in chosen.values())
    groups: dict[Kernel, list[tuple[Tensor, Lowered]]] = {}
    low = 0.0
    for position, (label, spec) in enumerate(chosen.items(), start=1):
        # The last bound is above every draw, whatever the sum of the weights rounds to.
        high = low + spec.p / total if position < len(chosen) else 2.0
        use = (number >= low) & (number < high)
        low = high
        step = plan(spec, images, draws.at(label))
        groups.setdefault(step.kernel, []).append((use, step))
    images = images.clone()
    for members in groups.values():
        change_(images, *merge_lowered(members))
    return images
