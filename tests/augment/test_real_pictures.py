"""Every augmentation on real pictures, against torchvision's functions with the parameters that it drew."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as TF
from torch import Tensor
from torchvision.transforms import v2

from cifarlab.augment import geometry
from cifarlab.augment.searched import policies
from cifarlab.core.random import Draws
from cifarlab.core.registries import AUGMENTS
from tests.augment.test_operations import agree, light, spread, theirs

COUNT = 300
# Torchvision has one scale for both axes.
OPTIONS = {"shift_scale_rotate": {"scale": 0.0}}
# What it makes of one picture, given its own draws: (picture (3, 32, 32), draws of one sample).
Reference = Callable[[Tensor, Draws], Tensor]


def drawn(draws: Draws, low: float = 0.0, high: float = 1.0, size: int = 1) -> list[float]:
    return draws.uniform(low, high, shape=(size,))[0].tolist()


def crop(picture: Tensor, draws: Draws) -> Tensor:
    top, left = (draws.integers(-4, 5, shape=(2,))[0] + 4).tolist()
    return TF.crop(TF.pad(picture, [4]), top, left, 32, 32)


def shift_scale_rotate(picture: Tensor, draws: Draws) -> Tensor:
    right, down, _, _, turn = drawn(draws, -1, 1, 5)
    return affine(picture, turn * 45, [int(2 * right), int(2 * down)], 1.0)


def affine(picture: Tensor, degrees: float, shift: list[int], scale: float) -> Tensor:
    # Torchvision's angles run clockwise.
    return TF.affine(picture, -degrees, shift, scale, [0.0, 0.0], TF.InterpolationMode.BILINEAR)


def color_jitter(picture: Tensor, draws: Draws) -> Tensor:
    numbers = drawn(draws, -1, 1, 8)
    adjust = (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation, TF.adjust_hue)
    for kind in sorted(range(4), key=lambda kind: numbers[4 + kind]):
        picture = adjust[kind](picture, numbers[kind] * 0.5 if kind == 3 else 1 + numbers[kind] * 0.2)
    return picture


def one_operation(name: str, low: float, high: float) -> Reference:
    return lambda picture, draws: theirs(name, picture, *drawn(draws, low, high))


def erase(picture: Tensor, top: int, left: int, bottom: int, right: int) -> Tensor:
    top, left = max(top, 0), max(left, 0)
    return TF.erase(picture, top, left, bottom - top, right - left, torch.zeros(3, 1, 1))


def cutout(picture: Tensor, draws: Draws) -> Tensor:
    top, left = (int(32 * number) - 4 for number in drawn(draws, size=2))
    return erase(picture, top, left, top + 8, left + 8)


def coarse_dropout(picture: Tensor, draws: Draws) -> Tensor:
    count, *numbers = drawn(draws, size=9)
    for hole in range(1 + int(2 * count)):
        tall, wide = (int(32 * (0.1 + 0.1 * numbers[side + hole])) for side in (0, 2))
        top, left = int((33 - tall) * numbers[4 + hole]), int((33 - wide) * numbers[6 + hole])
        picture = erase(picture, top, left, top + tall, left + wide)
    return picture


def random_erasing(picture: Tensor, draws: Draws) -> Tensor:
    numbers = draws.uniform(shape=(4, 10))[0].T.tolist()
    for area, ratio, down, across in numbers:
        size = 32 * 32 * (0.02 + 0.31 * area)
        slope = math.exp(math.log(0.3) + ratio * (math.log(3.3) - math.log(0.3)))
        tall, wide = round(math.sqrt(size * slope)), round(math.sqrt(size / slope))
        if tall < 32 and wide < 32:
            top, left = int((33 - tall) * down), int((33 - wide) * across)
            return erase(picture, top, left, top + tall, left + wide)
    return picture


class Policy:
    """Torchvision's policy, whose own code runs on what our policy drew."""

    def __init__(self, policy: Any, space: Any, bins: int):
        self.policy = policy
        self.space = {name: (make(bins, 32, 32), signed) for name, (make, signed) in space.items()}

    def run(self, picture: Tensor, name: str, place: int, negative: bool) -> Tensor:
        magnitudes, signed = self.space[name]
        magnitude = 0.0 if magnitudes is None else float(magnitudes[place])
        magnitude = -magnitude if signed and negative else magnitude
        policy = self.policy
        return policy._apply_image_or_video_transform(
            picture, name, magnitude, policy.interpolation, policy._fill
        )


def camel(name: str) -> str:
    return "".join(word.capitalize() for word in name.split("_"))


def rand_augment(picture: Tensor, draws: Draws) -> Tensor:
    policy = Policy(v2.RandAugment(), v2.RandAugment._AUGMENTATION_SPACE, 31)
    for row in draws.integers(0, 28, shape=(2,))[0].tolist():
        picture = policy.run(picture, camel(policies.OPERATION_NAMES[row // 2]), 9, bool(row % 2))
    return picture


def trivial_augment_wide(picture: Tensor, draws: Draws) -> Tensor:
    policy = Policy(v2.TrivialAugmentWide(), v2.TrivialAugmentWide._AUGMENTATION_SPACE, 31)
    row = int(draws.integers(0, 14 * 31 * 2))
    return policy.run(picture, camel(policies.OPERATION_NAMES[row // 62]), row // 2 % 31, bool(row % 2))


def auto_augment(picture: Tensor, draws: Draws) -> Tensor:
    library = v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10)
    policy = Policy(library, library._AUGMENTATION_SPACE, 10)
    pair = library._policies[int(draws.integers(0, 25))]
    signs, numbers = draws.integers(0, 2, shape=(2,))[0].tolist(), drawn(draws, size=2)
    for (name, probability, place), sign, number in zip(pair, signs, numbers, strict=True):
        if number < probability:
            picture = policy.run(picture, name, place or 0, bool(sign))
    return picture


def aug_mix(picture: Tensor, draws: Draws) -> Tensor:
    policy = Policy(v2.AugMix(), v2.AugMix._AUGMENTATION_SPACE, 10)
    own, *numbers = drawn(draws, size=4)
    shares = [-math.log(1 - number) + 2**-25 for number in numbers]
    names = [name for name in policies.OPERATION_NAMES if name != "identity"]
    chosen = draws.integers(0, len(names) * 3 * 2, shape=(3, 3))[0].tolist()
    lengths = draws.integers(1, 4, shape=(3,))[0].tolist()
    mixed = picture * own
    for share, rows, length in zip(shares, chosen, lengths, strict=True):
        view = picture
        for row in rows[:length]:
            view = policy.run(view, camel(names[row // 6]), row // 2 % 3, bool(row % 2))
        mixed = mixed + view * ((1 - own) * share / sum(shares))
    return mixed


# Whether pixels may jump, by a neighbour or by a level: of those, 99.9 % are compared.
REFERENCES: dict[str, tuple[Reference, bool]] = {
    "crop": (crop, False),
    "flip": (lambda picture, draws: TF.horizontal_flip(picture), False),
    "vertical_flip": (lambda picture, draws: TF.vertical_flip(picture), False),
    # In epoch 0: what other epochs make of it is tests/augment/test_augment.py's.
    "alternating_flip": (
        lambda picture, draws: TF.horizontal_flip(picture) if draws.bernoulli(0.5) else picture,
        False,
    ),
    "shift_scale_rotate": (shift_scale_rotate, False),
    "color_jitter": (color_jitter, False),
    "shear_x": (one_operation("shear_x", -0.3, 0.3), True),
    "shear_y": (one_operation("shear_y", -0.3, 0.3), True),
    "translate_x": (one_operation("translate_x", -0.45 * 32, 0.45 * 32), True),
    "translate_y": (one_operation("translate_y", -0.45 * 32, 0.45 * 32), True),
    "rotate": (one_operation("rotate", -30.0, 30.0), True),
    "brightness": (one_operation("brightness", 0.1, 1.9), False),
    "color": (one_operation("color", 0.1, 1.9), False),
    "contrast": (one_operation("contrast", 0.1, 1.9), False),
    "sharpness": (one_operation("sharpness", 0.1, 1.9), False),
    "posterize": (lambda picture, draws: TF.posterize(picture, int(draws.integers(4, 9))), True),
    "solarize": (one_operation("solarize", 0.0, 1.0), True),
    "invert": (lambda picture, draws: TF.invert(picture), False),
    "auto_contrast": (lambda picture, draws: TF.autocontrast(picture), False),
    "equalize": (lambda picture, draws: TF.equalize(picture), True),
    "cutout": (cutout, False),
    "coarse_dropout": (coarse_dropout, False),
    "random_erasing": (random_erasing, False),
    "rand_augment": (rand_augment, True),
    "trivial_augment_wide": (trivial_augment_wide, True),
    "auto_augment": (auto_augment, True),
    "aug_mix": (aug_mix, True),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_views_are_torchvisions(name: str, real_pictures: np.ndarray) -> None:
    images = light(real_pictures[:COUNT])
    spec = AUGMENTS.spec({"name": name, **OPTIONS.get(name, {})})
    found = spec.build(images, Draws(0, 0, torch.arange(COUNT)))
    reference, jumps = REFERENCES[name]
    rows = [Draws(0, 0, torch.tensor([i])) for i in range(COUNT)]
    expected = torch.stack([reference(picture, row) for picture, row in zip(images, rows, strict=True)])
    agree(found, expected, jumps)


def test_every_part_has_a_reference() -> None:
    ours = {name for name in AUGMENTS if AUGMENTS[name].call.__module__.startswith("cifarlab.")}
    # The first runs others; the second is the library itself.
    assert ours - REFERENCES.keys() == {"one_of", "albumentations"}


def test_a_scaled_warp_is_torchvisions(real_pictures: np.ndarray) -> None:
    images, scale = light(real_pictures[:COUNT]), spread(0.5, 1.5, COUNT)
    degrees, shift = spread(-180, 180, COUNT).flip(0), spread(-9, 10, 2 * COUNT).floor().view(COUNT, 2)
    matrix = geometry.affine_matrix(scale[:, None].expand(-1, 2), degrees, shift)
    expected = [
        affine(picture, degrees[i].item(), shift[i].int().tolist(), scale[i].item())
        for i, picture in enumerate(images)
    ]
    agree(geometry.Warp()(images, matrix), torch.stack(expected), jumps=False)
