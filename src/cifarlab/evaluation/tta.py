"""Test-time augmentation: mean outputs over several views of a picture."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from cifarlab.core.batch import Output
from cifarlab.core.errors import ConfigError, unknown
from cifarlab.core.reading import parse_yaml
from cifarlab.core.registry import Registry, Spec
from cifarlab.models.classifier import Classifier
from cifarlab.models.sizes import check_sizes

# Each part takes pictures (B, 3, H, W) and the side length in pixels at which the model would see them. It
# returns a list of views: pictures and the side length of each.
TTA = Registry("test-time augmentation")
View = tuple[Tensor, int]


@TTA.register
def flip(images: Tensor, size: int) -> list[View]:
    """Return the picture and its mirror image.

    There are two forward passes.
    """
    return [(images, size), (images.flip(-1), size)]


@TTA.register
def multi_crop(
    images: Tensor,
    size: int,
    *,
    pixels: Annotated[int, Field(ge=1, description="in pixels of the stored pictures")] = 1,
) -> list[View]:
    """Return the picture and diagonally shifted copies, each with its mirror image.

    There are 2 + 8 x `pixels` forward passes. A shift fills the free border with a reflection of the picture.
    With `pixels=1` this is the ten-crop of Krizhevsky et al. (2012).

    Args:
        pixels: Largest shift, in pixels of the stored pictures. All shifts from 1 to this are used.
    """
    steps = [step for step in range(-pixels, pixels + 1) if step]
    moved = [shift(images, y, x) for y in steps for x in (-y, y)]
    return [view for crop in (images, *moved) for view in flip(crop, size)]


@TTA.register
def sizes(
    images: Tensor,
    size: int,
    *,
    scales: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(min_length=1)] = (0.875, 1.0, 1.125),
) -> list[View]:
    """Return the picture at several sizes, each with its mirror image.

    There are two forward passes for each scale. Larger sizes cost more.

    Args:
        scales: Factors of the side length at which the model sees the picture without this augmentation.
    """
    return [view for scale in scales for view in flip(images, max(1, round(scale * size)))]


def shift(images: Tensor, down: int, right: int) -> Tensor:
    """Move pictures (B, C, H, W) by whole pixels, reflected at borders."""
    rows, columns = (
        _reflected(torch.arange(length, device=images.device) - step, length)
        for length, step in zip(images.shape[-2:], (down, right), strict=True)
    )
    return images[..., rows[:, None], columns]


def _reflected(places: Tensor, length: int) -> Tensor:
    """Reflect positions into 0 to length - 1, without repeating the edges."""
    places = places.abs() % max(1, 2 * length - 2)
    return torch.minimum(places, 2 * length - 2 - places)


def parse(text: str) -> Spec:
    """Read a test-time augmentation: a name, or `{name: ..., option: ...}`.

    Raises:
        ConfigError: The augmentation or an option is unknown. The message suggests the nearest name.
    """
    try:
        return TTA.spec(parse_yaml(text, repr(text)))
    except ConfigError as error:
        raise ConfigError(error.message, ("tta", *error.path)) from None


def mean_of_logits(logits: Tensor) -> Tensor:
    """Return the mean (B, C) of logits (M, B, C)."""
    return logits.mean(0)


def mean_of_probabilities(logits: Tensor) -> Tensor:
    """Average the probabilities of logits (M, B, C); return logarithms (B, C)."""
    return logits.log_softmax(-1).logsumexp(0) - math.log(len(logits))


MEANS: dict[str, Callable[[Tensor], Tensor]] = {
    "probabilities": mean_of_probabilities,
    "logits": mean_of_logits,
}


def mean_called(name: str) -> Callable[[Tensor], Tensor]:
    """Return `mean_of_logits` or `mean_of_probabilities`.

    `name` is logits or probabilities.

    Raises:
        ConfigError: The name is unknown. The message suggests the nearest name.
    """
    if name not in MEANS:
        raise ConfigError(f"{name}: {unknown(name, MEANS)}", ("mean",))
    return MEANS[name]


class Augmented(nn.Module):
    """A classifier that averages its outputs over several views of a picture.

    Args:
        model: The classifier.
        tta: The test-time augmentation, as `parse` returns it.
        size: Side length in pixels at which the model sees pictures without augmentation.
        backbone: Name of the model's backbone, for error messages.
        mean: What is averaged: logits or probabilities.

    Attributes:
        passes: Number of views.

    Raises:
        ConfigError: The backbone cannot take the size of a view.
    """

    def __init__(self, model: Classifier, tta: Spec, size: int, backbone: str, *, mean: str = "logits"):
        super().__init__()
        self.model, self.views, self.mean = model, tta.bind(), mean_called(mean)
        views: Sequence[View] = self.views(torch.zeros(1, 3, 8, 8), size)
        self.passes = len(views)
        others = sorted({at for _, at in views} - {size})
        check_sizes(model, backbone, others, ("tta",))

    def forward(self, images: Tensor, size: int) -> Output:
        """Return the mean logits (B, C) over the views.

        The embedding of the output is empty.

        Args:
            images: Pictures (B, 3, H, W).
            size: Side length in pixels at which the model sees them. Some views are larger or smaller.
        """
        views = ((view.to(memory_format=torch.channels_last), at) for view, at in self.views(images, size))
        logits = self.mean(torch.stack([self.model(view, at).logits.float() for view, at in views]))
        return Output(logits, logits[:, :0])
