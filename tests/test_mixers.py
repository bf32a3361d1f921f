"""Mixers: consistent within a pair, true to their distributions, the same at every batch size."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from scipy import stats
from torch import Tensor

from cifarlab import augment
from cifarlab.augment.mixers import beta, cutmix, mixup, pair_draws, partners
from cifarlab.draws import Draws
from cifarlab.registry import MIXERS, MixSpecs, Spec

SPECS: TypeAdapter[dict[str, Spec]] = TypeAdapter(MixSpecs, config={"arbitrary_types_allowed": True})


def batch(size: int, classes: int = 10, pixels: int = 32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(images, targets, ids, partner): random pictures under shuffled ids."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(size, 3, pixels, pixels, generator=generator)
    ids = torch.randperm(50_000, generator=generator)[:size]
    targets = torch.eye(classes)[torch.randint(classes, (size,), generator=generator)]
    return images, targets, ids, partners(size)


def test_partners() -> None:
    assert partners(6).tolist() == [1, 0, 3, 2, 5, 4]
    assert partners(5).tolist() == [1, 0, 3, 2, 4]
    assert partners(1).tolist() == [0]
    assert partners(4).dtype == torch.int64


def test_a_pair_draws_the_same_numbers() -> None:
    _, _, ids, partner = batch(100)
    numbers = pair_draws(0, 0, ids, partner).uniform()
    assert torch.equal(numbers, numbers[partner])
    assert len(numbers.unique()) == 50
    exchanged = pair_draws(0, 0, ids[partner], partner).uniform()
    assert torch.equal(numbers, exchanged)
    # Not the numbers of the member's own view.
    assert not torch.isin(numbers, Draws(0, 0, ids).uniform()).any()


@pytest.mark.parametrize("alpha", [0.001, 0.01, 0.1, 0.2, 0.5, 1.0, 1.5, 2.0, 8.0, 33.0, 1000.0])
def test_beta_has_the_quantiles_of_the_distribution(alpha: float) -> None:
    indices = torch.arange(20_000)
    values = beta(Draws(0, 0, indices), alpha)
    uniform = Draws(0, 0, indices).uniform().double()
    expected = torch.from_numpy(stats.beta(alpha, alpha).ppf(uniform.numpy()))
    assert (values - expected).abs().max() < 1e-3
    assert values.min() >= 0 and values.max() <= 1
    extremes = torch.tensor([0.0, 2.0**-24, 0.25, 0.5, 1 - 2.0**-24])

    class Fixed(Draws):
        def uniform(self, low: float = 0.0, high: float = 1.0, shape: tuple[int, ...] = ()) -> Tensor:
            return extremes

    ends = beta(Fixed(0, 0, torch.arange(5)), alpha)
    expected = torch.from_numpy(stats.beta(alpha, alpha).ppf(extremes.double().clamp(min=2.0**-25).numpy()))
    assert (ends - expected).abs().max() < 1e-3


@pytest.mark.parametrize("name", sorted(MIXERS))
@given(start=st.integers(0, 100), size=st.integers(1, 60), threads=st.sampled_from([1, 2]))
@settings(max_examples=15, deadline=None)
def test_the_same_pair_gives_the_same_mix_in_any_batch(
    name: str, start: int, size: int, threads: int
) -> None:
    images, targets, ids, partner = batch(250)
    specs = SPECS.validate_python({name: {"p": 0.7}})
    whole = augment.mix(images, targets, partner, pair_draws(0, 3, ids, partner), specs)
    rows = slice(2 * start, min(2 * start + 2 * size, 250))
    own = partners(len(ids[rows]))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        part = augment.mix(images[rows], targets[rows], own, pair_draws(0, 3, ids[rows], own), specs)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(part[0], whole[0][rows]) and torch.equal(part[1], whole[1][rows])


@pytest.mark.parametrize("name", sorted(MIXERS))
@pytest.mark.parametrize("size", [1, 2, 7, 64])
def test_results_are_pictures_and_targets(name: str, size: int) -> None:
    images, targets, ids, partner = batch(size)
    kept = images.clone(), targets.clone()
    specs = SPECS.validate_python({name: {}})
    mixed, mixed_targets = augment.mix(images, targets, partner, pair_draws(0, 0, ids, partner), specs)
    assert torch.equal(images, kept[0]) and torch.equal(targets, kept[1])
    assert mixed.shape == images.shape and mixed.dtype == torch.float32
    assert mixed.min() >= 0 and mixed.max() <= 1
    torch.testing.assert_close(mixed_targets.sum(1), torch.ones(size))
    assert mixed_targets.min() >= 0
    striped, _ = augment.mix(
        images.to(memory_format=torch.channels_last), targets, partner, pair_draws(0, 0, ids, partner), specs
    )
    assert torch.equal(striped, mixed)
    if size % 2:
        torch.testing.assert_close(mixed[-1], images[-1])
        torch.testing.assert_close(mixed_targets[-1], targets[-1])


def test_mixup_by_hand() -> None:
    images, targets, ids, partner = batch(50)
    weight = beta(pair_draws(1, 2, ids, partner), 0.4).view(-1, 1, 1, 1)
    mixed, mixed_targets = mixup(images, targets, partner, pair_draws(1, 2, ids, partner), alpha=0.4)
    torch.testing.assert_close(mixed, weight * images + (1 - weight) * images[partner])
    torch.testing.assert_close(
        mixed_targets, weight[..., 0, 0] * targets + (1 - weight[..., 0, 0]) * targets[partner]
    )
    # Each picture counts once in all.
    torch.testing.assert_close(mixed + mixed[partner], images + images[partner])


def test_cutmix_by_hand() -> None:
    size, pixels = 2000, 32
    _, targets, ids, partner = batch(size)
    # Pictures that are all 0 beside pictures that are all 1, so that the box is what changed.
    images = (torch.arange(size) % 2).float().view(-1, 1, 1, 1).expand(size, 3, pixels, pixels)
    targets = torch.eye(2)[torch.arange(size) % 2]
    mixed, mixed_targets = cutmix(images, targets, partner, pair_draws(0, 0, ids, partner))
    box = (mixed != images)[:, 0]
    assert torch.equal(box, box[partner])
    area = box.flatten(1).float().mean(1)
    torch.testing.assert_close(
        mixed_targets, targets * (1 - area[:, None]) + targets[partner] * area[:, None]
    )
    # A box is a box: as many pixels as its rows times its columns.
    assert torch.equal(box.any(1).sum(1) * box.any(2).sum(1), box.flatten(1).sum(1))
    # Of uniform lambda, with a uniform centre, as drawn in the reference code of the paper.
    generator = torch.Generator().manual_seed(1)
    side = ((1 - torch.rand(20_000, generator=generator)).sqrt() * pixels).int()
    spans = []
    for _ in range(2):
        centre = torch.randint(pixels, (20_000,), generator=generator)
        spans.append((centre + side // 2).clamp(0, pixels) - (centre - side // 2).clamp(0, pixels))
    reference = (spans[0] * spans[1]) / pixels**2
    # Its boxes have an even number of pixels, ours any: half a pixel a side.
    assert abs(area[::2].mean() - reference.mean()) < 0.02
    distance: Any = stats.ks_2samp(area[::2].numpy(), reference.numpy(), method="asymp")
    assert distance.statistic < 0.08


def test_p_picks_pairs() -> None:
    images, targets, ids, partner = batch(4000, pixels=8)
    specs = SPECS.validate_python({"mixup": {"alpha": 1.0, "p": 0.3}})
    draws = pair_draws(0, 0, ids, partner)
    mixed, mixed_targets = augment.mix(images, targets, partner, draws, specs)
    changed = (mixed != images).flatten(1).any(1)
    assert torch.equal(changed, changed[partner])
    assert stats.binomtest(int(changed[::2].sum()), 2000, 0.3).pvalue > 1e-3
    assert torch.equal(mixed_targets[~changed], targets[~changed])
    # Those it picks are mixed as they would be at p = 1.
    always, _ = augment.mix(images, targets, partner, draws, SPECS.validate_python({"mixup": {"alpha": 1.0}}))
    assert torch.equal(mixed[changed], always[changed])


def test_mixers_run_in_order() -> None:
    images, targets, ids, partner = batch(20)
    draws = pair_draws(0, 0, ids, partner)
    both = augment.mix(images, targets, partner, draws, SPECS.validate_python({"mixup": {}, "cutmix": {}}))
    first = mixup(images, targets, partner, draws.at("mixup"))
    second = cutmix(*first, partner, draws.at("cutmix"))
    assert torch.equal(both[0], second[0]) and torch.equal(both[1], second[1])
