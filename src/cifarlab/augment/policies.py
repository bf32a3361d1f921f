"""Policies, which decide which augmentations run on which samples: `apply` and `one_of`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator
from torch import Tensor

from cifarlab.augment.kernels import Kernel, Lowered, change_, lower_spec, merge_lowered
from cifarlab.core.errors import ConfigError
from cifarlab.core.random import Draws
from cifarlab.core.registries import AUGMENTS, AugmentSpecs
from cifarlab.core.registry import Spec

# Name of the stream of the probability draw, below the part's own stream: changing p does not change the
# part's other random numbers.
PROBABILITY = ".p"


def apply(images: Tensor, draws: Draws, specs: Mapping[str, Spec]) -> Tensor:
    """Run several augmentations in order, each on randomly chosen samples.

    An augmentation's `p` is the probability that it is applied to a sample.

    Args:
        images: (B, 3, H, W) float32 in [0, 1].
        draws: Random numbers for these samples. Each augmentation uses its own stream, named by its key.
        specs: The augmentations, by their key in `data.augment`.
    """
    for label, spec in specs.items():
        if spec.p == 0:
            continue
        stream = draws.at(label)
        step = lower_spec(spec, images, stream)
        if spec.p == 1:
            images = step(images)
        else:
            images = images.clone()
            change_(images, stream.at(PROBABILITY).bernoulli(spec.p), step)
    return images


def some_weight(choices: dict[str, Spec]) -> dict[str, Spec]:
    """Return the choices; raise ConfigError if every p is 0."""
    if not any(spec.p for spec in choices.values()):
        raise ConfigError("needs at least one choice with p above 0")
    return choices


@AUGMENTS.register
def one_of(
    images: Tensor, draws: Draws, *, choices: Annotated[AugmentSpecs, AfterValidator(some_weight)]
) -> Tensor:
    """Exactly one of several augmentations for each picture (albumentations' OneOf).

    Rotations, shears and shifts among the choices are computed in one pass if their `fill` and
    `interpolation` are equal.

    Args:
        choices: The augmentations, in the form of `data.augment`. The `p` of each is its weight in the random
            choice; the weights need not sum to 1.
    """
    number = draws.uniform()
    chosen = {label: spec for label, spec in choices.items() if spec.p}
    total = sum(spec.p for spec in chosen.values())
    groups: dict[Kernel, list[tuple[Tensor, Lowered]]] = {}
    low = 0.0
    for position, (label, spec) in enumerate(chosen.items(), start=1):
        # The last bound is above every draw, however the sum of the weights is rounded.
        high = low + spec.p / total if position < len(chosen) else 2.0
        use = (number >= low) & (number < high)
        low = high
        step = lower_spec(spec, images, draws.at(label))
        groups.setdefault(step.kernel, []).append((use, step))
    images = images.clone()
    for members in groups.values():
        change_(images, *merge_lowered(members))
    return images
