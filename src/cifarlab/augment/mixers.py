"""Mixers, which combine the two samples of a pair (neighbours in a batch) into new training examples.

The option `per` says whether a mixer draws its random numbers for each pair or once for the whole batch.
With "pair", how a pair is mixed depends on this pair alone. With "batch", as in the papers' own code, all
pairs use the random numbers of the first pair. How a pair is mixed then depends on the batch that it is in.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import AfterValidator, Field
from torch import Tensor

from cifarlab.augment.kernels import held_constant, select
from cifarlab.augment.policies import PROBABILITY, some_weight
from cifarlab.core.random import Draws
from cifarlab.core.registries import MIXERS, MixSpecs
from cifarlab.core.registry import Spec

# In this range, `beta` is within 1e-3 of the exact distribution.
Alpha = Annotated[float, Field(ge=0.001, le=1000)]
_TABLE_STEPS = 4096
# Whether a draw holds for one pair or for the whole batch.
Per = Literal["pair", "batch"]


def partners(size: int, *, device: torch.device | str = "cpu") -> Tensor:
    """Return the position of each sample's partner in a batch, (size,) int64.

    Neighbours are partners: 0 and 1, 2 and 3, and so on. The last sample of an odd batch is its own partner.
    """
    return (torch.arange(size, device=device) ^ 1).clamp(max=size - 1)


def pair_draws(seed: int, epoch: int, ids: Tensor, partner: Tensor) -> Draws:
    """Return random numbers that are equal for both samples of a pair.

    They depend on the smaller of the two ids.

    Args:
        seed: Seed of the run.
        epoch: Epoch of the batch.
        ids: (B,) int64, the id of each sample, see `Split.ids`.
        partner: (B,) int64, as `partners` returns it.
    """
    return Draws(seed, epoch, torch.minimum(ids, ids[partner])).at("mix")


def mix_batch(
    images: Tensor, targets: Tensor, partner: Tensor, draws: Draws, specs: Mapping[str, Spec]
) -> tuple[Tensor, Tensor]:
    """Run several mixers in order, each on randomly chosen pairs.

    A mixer's `p` is the probability that it is applied to a pair. With `per="batch"` it is the probability
    that it is applied to the batch, that is, to all pairs.

    Args:
        images: (B, 3, H, W).
        targets: (B, C), class probabilities. Each row sums to 1.
        partner: (B,) int64, as `partners` returns it.
        draws: As `pair_draws` returns them.
        specs: The mixers, by their key in `data.mix`.

    Returns:
        Mixed images and targets, of the same shapes.
    """
    for label, spec in specs.items():
        if spec.p == 0:
            continue
        stream = draws.at(label)
        mixed = spec.build(images, targets, partner, stream)
        if spec.p < 1:
            use = _shared(stream.at(PROBABILITY), getattr(spec.options, "per", "pair")).bernoulli(spec.p)
            mixed = select(use, mixed[0], images), select(use, mixed[1], targets)
        images, targets = mixed
    return images, targets


def _shared(draws: Draws, per: Per) -> Draws:
    """Return `draws`, or the first sample's repeated if `per` is "batch"."""
    return draws if per == "pair" else draws.take(torch.arange(len(draws), device=draws.device) * 0)


def _square_roots(alpha: float) -> int:
    """Return how many times `beta` takes the square root of a probability.

    If q is a small probability, the quantile of Beta(alpha, alpha) is proportional to q ** (1 / alpha). As a
    function of the result of all square roots, the quantile is nearly linear. A table of quantiles at even
    steps of this result can therefore be interpolated.
    """
    return max(0, math.ceil(math.log2(alpha)))


@lru_cache
def _quantiles(alpha: float, device: torch.device) -> Tensor:
    """Return a table of quantiles of Beta(alpha, alpha) up to the median.

    The result is (_TABLE_STEPS + 1,) float32.
    """
    # As a function of z = log(lambda / (1 - lambda)), the density is smooth for every alpha and has
    # exponential tails.
    z = np.linspace(-40.0, 0.0, 400_001)
    density = np.exp(alpha * (z - 2 * np.logaddexp(0, z) + 2 * math.log(2)))
    below = density[0] / alpha
    area = np.concatenate([[0.0], np.cumsum((density[1:] + density[:-1]) / 2 * (z[1] - z[0]))]) + below
    # `beta` looks up the repeated square root of twice the probability; these are even steps of that root.
    doubled = np.linspace(0.0, 1.0, _TABLE_STEPS + 1) ** (2 ** _square_roots(alpha))
    at = np.interp(doubled, area / area[-1], z)
    return torch.from_numpy((1 / (1 + np.exp(-at))).astype(np.float32)).to(device)


@held_constant
def _table(alpha: float, device: torch.device) -> Tensor:
    return _quantiles(alpha, device)


def beta(draws: Draws, alpha: float) -> Tensor:
    """Draw (B,) float32 numbers from Beta(alpha, alpha).

    Quantiles are looked up in a table, because the last bits of computed powers differ between devices.
    """
    number = draws.uniform()
    # The distribution is symmetric, so the table holds its lower half. A draw of 0 stands for the interval
    # [0, 2**-24), of which 2**-25 is the middle.
    place = 2 * torch.minimum(number, 1 - number).clamp(min=2.0**-25)
    for _ in range(_square_roots(alpha)):
        place = place.sqrt()
    place = place * _TABLE_STEPS
    index = place.floor().clamp(max=_TABLE_STEPS - 1)
    part = place - index
    table, index = _table(alpha, draws.device), index.to(torch.int64)
    lower = table[index] * (1 - part) + table[index + 1] * part
    return torch.where(number < 0.5, lower, 1 - lower)


@MIXERS.register
def mixup(
    images: Tensor, targets: Tensor, partner: Tensor, draws: Draws, *, alpha: Alpha = 0.2, per: Per = "pair"
) -> tuple[Tensor, Tensor]:
    """Weighted mean of two pictures and their targets (Zhang et al., 2018).

    For a pair (a, b) and a random weight lambda, the first picture becomes lambda a + (1 - lambda) b, and the
    second lambda b + (1 - lambda) a. Targets are mixed in the same way.

    Args:
        alpha: Lambda is drawn from Beta(alpha, alpha). Small values give lambdas near 0 and 1, that is,
            little mixing. 1 makes all lambdas equally likely.
        per: How often a lambda is drawn: pair draws one for each pair, batch draws one for all pairs, as the
            paper's own code does. With batch, a pair's mix depends on the other samples of the batch, and `p`
            picks all pairs or none.
    """
    weight = beta(_shared(draws, per), alpha)
    return _mean(images, images[partner], weight), _mean(targets, targets[partner], weight)


@MIXERS.register
def cutmix(
    images: Tensor, targets: Tensor, partner: Tensor, draws: Draws, *, alpha: Alpha = 1.0, per: Per = "pair"
) -> tuple[Tensor, Tensor]:
    """Paste a box of the other picture (CutMix, Yun et al., 2019).

    The two pictures of a pair exchange their pixels within a box. The box has the proportions of a picture
    and 1 - lambda of its area, for a random lambda. The centre of the box is drawn uniformly from the
    picture, and the box is clipped at the border. In the mixed target, the weight of the other picture's
    target is the share of the picture that the clipped box covers.

    Args:
        alpha: Lambda is drawn from Beta(alpha, alpha). Small values give boxes that cover nearly nothing or
            nearly all. 1 makes all lambdas equally likely.
        per: How often a box is drawn: pair draws one for each pair, batch draws one for all pairs, as the
            paper's own code does. With batch, a pair's mix depends on the other samples of the batch, and `p`
            picks all pairs or none.
    """
    draws = _shared(draws, per)
    height, width = images.shape[-2:]
    side = (1 - beta(draws, alpha)).sqrt()
    rows, columns = _span(draws, side, height), _span(draws, side, width)
    area = (rows.sum(1) * columns.sum(1)).to(torch.float32) / (height * width)
    box = rows[:, None, :, None] & columns[:, None, None, :]
    return torch.where(box, images[partner], images), _mean(targets, targets[partner], 1 - area)


@MIXERS.register
def one_of(
    images: Tensor,
    targets: Tensor,
    partner: Tensor,
    draws: Draws,
    *,
    choices: Annotated[MixSpecs, AfterValidator(some_weight)],
    per: Per = "pair",
) -> tuple[Tensor, Tensor]:
    """Exactly one of several mixers for each pair.

    Args:
        choices: The mixers, in the form of `data.mix`, such as {mixup: {p: 0.5}, cutmix: {p: 0.5}}. The `p`
            of each is its weight in the random choice; the weights need not sum to 1.
        per: How often a choice is made: pair makes one for each pair, batch makes one for all pairs. With
            batch, a pair's mix depends on the other samples of the batch, and `p` picks all pairs or none.
            Each choice has its own `per`, for how often its lambda is drawn.
    """
    number = _shared(draws, per).uniform()
    total = sum(spec.p for spec in choices.values())
    low, mixed = 0.0, (images, targets)
    for label, spec in choices.items():
        if spec.p == 0:
            continue
        view = spec.build(images, targets, partner, draws.at(label))
        # Each choice overwrites the pairs above its lower bound; later choices overwrite it in turn.
        use = number >= low
        mixed = select(use, view[0], mixed[0]), select(use, view[1], mixed[1])
        low += spec.p / total
    return mixed


def _span(draws: Draws, side: Tensor, size: int) -> Tensor:
    """Return which pixels lie in a span around a random centre.

    There are `size` pixels in a row. The length of the span is `side` (B,) x `size`, rounded down. The result
    is (B, size) bool.
    """
    length = (side * size).to(torch.int64)
    start = draws.integers(0, size) - length // 2
    pixels = torch.arange(size, device=side.device)
    return (pixels >= start[:, None]) & (pixels < (start + length)[:, None])


def _mean(own: Tensor, other: Tensor, weight: Tensor) -> Tensor:
    """Return weight x own + (1 - weight) x other.

    `weight` is (B,); `own` and `other` are (B, ...).
    """
    weight = weight.view(-1, *[1] * (own.dim() - 1))
    return (own * weight).add_(other * (1 - weight))
