"""Policies from the literature on augmentation search: AutoAugment, RandAugment, TrivialAugment, AugMix.

Each draws rows from a table of operations, whose form `searched.tables` explains.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from cifarlab.augment.geometry import Fraction, Interpolation
from cifarlab.augment.kernels import column, held_constant
from cifarlab.augment.searched.tables import MIXED, NARROW, OPERATIONS, WIDE, row, rows, run_
from cifarlab.core.random import Draws
from cifarlab.core.registries import AUGMENTS

# The operations of RandAugment and TrivialAugment: all except `invert`.
OPERATION_NAMES = tuple(name for name in OPERATIONS if name != "invert")
MAGNITUDE_BINS = 31
# The largest number of operations in a chain of AugMix.
_LONGEST = 3
# The operations of AugMix, without the four that its authors exclude because the robustness benchmark CIFAR-C
# has them.
MIXED_NAMES = tuple(
    name
    for name in OPERATION_NAMES
    if name not in ("identity", "brightness", "color", "contrast", "sharpness")
)
# Two entries for each policy: (operation, probability, magnitude bin of ten). Table 7 of Cubuk et al., 2019.
CIFAR10_POLICY = (
    (("invert", 0.1, 0), ("contrast", 0.2, 6)),
    (("rotate", 0.7, 2), ("translate_x", 0.3, 9)),
    (("sharpness", 0.8, 1), ("sharpness", 0.9, 3)),
    (("shear_y", 0.5, 8), ("translate_y", 0.7, 9)),
    (("auto_contrast", 0.5, 0), ("equalize", 0.9, 0)),
    (("shear_y", 0.2, 7), ("posterize", 0.3, 7)),
    (("color", 0.4, 3), ("brightness", 0.6, 7)),
    (("sharpness", 0.3, 9), ("brightness", 0.7, 9)),
    (("equalize", 0.6, 0), ("equalize", 0.5, 0)),
    (("contrast", 0.6, 7), ("sharpness", 0.6, 5)),
    (("color", 0.7, 7), ("translate_x", 0.5, 8)),
    (("equalize", 0.3, 0), ("auto_contrast", 0.4, 0)),
    (("translate_y", 0.4, 3), ("sharpness", 0.2, 6)),
    (("brightness", 0.9, 6), ("color", 0.2, 8)),
    (("solarize", 0.5, 2), ("invert", 0.0, 0)),
    (("equalize", 0.2, 0), ("auto_contrast", 0.6, 0)),
    (("equalize", 0.2, 0), ("equalize", 0.6, 0)),
    (("color", 0.9, 9), ("equalize", 0.6, 0)),
    (("auto_contrast", 0.8, 0), ("solarize", 0.2, 8)),
    (("brightness", 0.1, 3), ("color", 0.7, 0)),
    (("solarize", 0.4, 5), ("auto_contrast", 0.9, 0)),
    (("translate_y", 0.9, 9), ("translate_y", 0.7, 9)),
    (("auto_contrast", 0.9, 0), ("solarize", 0.8, 3)),
    (("equalize", 0.8, 0), ("invert", 0.1, 0)),
    (("translate_y", 0.7, 9), ("auto_contrast", 0.9, 0)),
)


def rand_rows(magnitude: int, height: int, width: int) -> Tensor:
    """Return the table of RandAugment at one magnitude, (28, COLUMNS).

    It holds two rows for each of 14 operations: one for the positive and one for the negative magnitude.
    `magnitude` is from 0 to 30.
    """
    return rows(NARROW, OPERATION_NAMES, [magnitude], MAGNITUDE_BINS, height, width)


def trivial_rows(height: int, width: int) -> Tensor:
    """Return the table of TrivialAugment, (868, COLUMNS).

    It holds 14 operations at 31 magnitudes, and the same with negative magnitudes.
    """
    return rows(WIDE, OPERATION_NAMES, range(MAGNITUDE_BINS), MAGNITUDE_BINS, height, width)


def auto_rows(height: int, width: int) -> Tensor:
    """Return the table of AutoAugment, (100, COLUMNS + 1).

    It holds 25 pairs of operations. A pair takes four rows: the first operation with its positive and its
    negative magnitude, then the second operation likewise. The last column is the operation's probability.
    """
    found = []
    for name, probability, position in (entry for policy in CIFAR10_POLICY for entry in policy):
        magnitude = NARROW.magnitudes(name, 10, height, width)[position].item()
        for negative in (False, True):
            numbers = row(name, magnitude, negative, height, width)
            found.append(torch.cat([numbers, numbers.new_tensor([probability])]))
    return torch.stack(found)


def mixed_rows(severity: int, every: bool, height: int, width: int) -> Tensor:
    """Return the table of AugMix, (operations x severity x 2, COLUMNS).

    It holds 9 operations at the `severity` weakest of 10 magnitudes, and the same with negative magnitudes.
    If `every` is true, brightness, color, contrast and sharpness are added: 13 operations.
    """
    names = [name for name in OPERATION_NAMES if name != "identity"] if every else MIXED_NAMES
    return rows(MIXED, names, range(severity), 10, height, width)


@lru_cache
def _cached(make: Callable[..., Tensor], arguments: tuple[int, ...], device: torch.device) -> Tensor:
    return make(*arguments).to(device)


@held_constant
def _rand_table(magnitude: int, height: int, width: int, device: torch.device) -> Tensor:
    return _cached(rand_rows, (magnitude, height, width), device)


@held_constant
def _trivial_table(height: int, width: int, device: torch.device) -> Tensor:
    return _cached(trivial_rows, (height, width), device)


@held_constant
def _auto_table(height: int, width: int, device: torch.device) -> Tensor:
    return _cached(auto_rows, (height, width), device)


@held_constant
def _mixed_table(severity: int, every: bool, height: int, width: int, device: torch.device) -> Tensor:
    return _cached(mixed_rows, (severity, every, height, width), device)


@AUGMENTS.register
def rand_augment(
    images: Tensor,
    draws: Draws,
    *,
    num_operations: Annotated[int, Field(ge=1, le=14)] = 2,
    magnitude: Annotated[int, Field(ge=0, lt=MAGNITUDE_BINS)] = 9,
    interpolation: Interpolation = "nearest",
    fill: Fraction = 0.0,
) -> Tensor:
    """RandAugment: random operations of one magnitude (Cubuk et al., 2020).

    The operations run one after the other. They are drawn from 14, as in torchvision.

    Args:
        num_operations: How many operations each picture gets. An operation may be drawn twice. One of the 14
            is `identity`, which changes nothing.
        magnitude: Strength of all operations, from 0 to 30. 30 means: shear by 0.3, shift by 45 % of the
            side, rotate by 30 degrees, change brightness, color, contrast and sharpness by a factor of 0.1 or
            1.9, posterize to 4 bits, solarize all values.
        interpolation: How shears, shifts and rotations read a value between pixels: nearest takes the nearest
            pixel, bilinear a weighted mean of the four around it.
        fill: Value that shears, shifts and rotations put outside the picture: 0 is black, 1 is white.
    """
    height, width = images.shape[-2:]
    table = _rand_table(magnitude, height, width, images.device)
    chosen = table[draws.integers(0, len(table), shape=(num_operations,))]
    images = images.clone()
    for turn in range(num_operations):
        run_(images, chosen[:, turn], interpolation, fill)
    return images


@AUGMENTS.register
def trivial_augment_wide(
    images: Tensor, draws: Draws, *, interpolation: Interpolation = "nearest", fill: Fraction = 0.0
) -> Tensor:
    """TrivialAugment, wide: one random operation and magnitude (Müller and Hutter, 2021).

    The operation is drawn from 14 and its magnitude from 31, as in torchvision. The largest magnitude means:
    shear by 0.99, shift by 32 pixels at any size of picture, rotate by 135 degrees, change brightness, color,
    contrast and sharpness by a factor of 0.01 or 1.99, posterize to 2 bits, solarize all values.

    Args:
        interpolation: How shears, shifts and rotations read a value between pixels: nearest takes the nearest
            pixel, bilinear a weighted mean of the four around it.
        fill: Value that shears, shifts and rotations put outside the picture: 0 is black, 1 is white.
    """
    height, width = images.shape[-2:]
    table = _trivial_table(height, width, images.device)
    chosen = table[draws.integers(0, len(table))]
    images = images.clone()
    run_(images, chosen, interpolation, fill)
    return images


@AUGMENTS.register
def auto_augment(
    images: Tensor, draws: Draws, *, interpolation: Interpolation = "nearest", fill: Fraction = 0.0
) -> Tensor:
    """AutoAugment's CIFAR-10 policy: a random pair of operations (Cubuk et al., 2019).

    The pair is drawn from 25. In a pair, each operation has its own probability and magnitude. The signs of
    the magnitudes are random. All of this is as in torchvision.

    Args:
        interpolation: How shears, shifts and rotations read a value between pixels: nearest takes the nearest
            pixel, bilinear a weighted mean of the four around it.
        fill: Value that shears, shifts and rotations put outside the picture: 0 is black, 1 is white. The
            paper fills with gray, 0.5.
    """
    height, width = images.shape[-2:]
    table = _auto_table(height, width, images.device)
    policy = draws.integers(0, len(CIFAR10_POLICY))
    signs, numbers = draws.integers(0, 2, shape=(2,)), draws.uniform(shape=(2,))
    images = images.clone()
    for turn in range(2):
        chosen = table[(policy * 2 + turn) * 2 + signs[:, turn]]
        # A row of zeros selects no kernel, so the picture stays unchanged.
        used = (numbers[:, turn] < chosen[:, -1]).to(torch.float32)
        run_(images, chosen[:, :-1] * used[:, None], interpolation, fill)
    return images


@AUGMENTS.register
def aug_mix(
    images: Tensor,
    draws: Draws,
    *,
    severity: Annotated[int, Field(ge=1, le=10)] = 3,
    num_chains: Annotated[int, Field(ge=1, le=10)] = 3,
    all_operations: bool = True,
    interpolation: Interpolation = "bilinear",
    fill: Fraction = 0.0,
) -> Tensor:
    """AugMix: mean of a picture and altered copies (Hendrycks et al., 2020).

    Each altered copy is made by a chain of one to three operations. In the mean, the weight w of the
    unaltered picture is uniform in [0, 1]. The copies share the rest, 1 - w, in proportions drawn from
    Dirichlet(1, ..., 1). This is torchvision's AugMix with alpha 1. The paper's consistency loss is not part
    of it.

    Args:
        severity: An operation's magnitude is drawn from the `severity` lowest of ten.
        num_chains: How many altered copies are made.
        all_operations: Whether brightness, color, contrast and sharpness are among the operations. False
            leaves them out, as the authors do, because the robustness benchmark CIFAR-C contains them.
        interpolation: How shears, shifts and rotations read a value between pixels: nearest takes the nearest
            pixel, bilinear a weighted mean of the four around it.
        fill: Value that shears, shifts and rotations put outside the picture: 0 is black, 1 is white.
    """
    height, width = images.shape[-2:]
    table = _mixed_table(severity, all_operations, height, width, images.device)
    numbers = draws.uniform(shape=(num_chains + 1,))
    # Exponential variates divided by their sum are Dirichlet(1, ..., 1). Draws are below 1, so the logarithm
    # is finite.
    shares = -(1 - numbers[:, 1:]).log() + 2.0**-25
    total = shares[:, 0]
    for chain in range(1, num_chains):
        total = total + shares[:, chain]
    chosen = table[draws.integers(0, len(table), shape=(num_chains, _LONGEST))]
    lengths = draws.integers(1, _LONGEST + 1, shape=(num_chains,))
    mixed = images * column(numbers[:, 0])
    for chain in range(num_chains):
        view = images.clone()
        for turn in range(_LONGEST):
            # A row of zeros selects no kernel, so the picture stays unchanged.
            used = (turn < lengths[:, chain, None]).to(torch.float32)
            run_(view, chosen[:, chain, turn] * used, interpolation, fill)
        mixed += view * column((1 - numbers[:, 0]) * shares[:, chain] / total)
    return mixed.clamp_(0, 1)
