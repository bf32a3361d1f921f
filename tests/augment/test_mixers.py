"""Mixers: consistent within a pair, true to their distributions, the same at every batch size."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import timm.data.mixup as timm_mixup
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from scipy import stats
from torch import Tensor
from torchvision.transforms import v2

from cifarlab import augment
from cifarlab.augment.mixers import beta, cutmix, mixup, pair_draws, partners
from cifarlab.core.errors import ConfigError
from cifarlab.core.random import Draws
from cifarlab.core.registries import MIXERS, MixSpecs
from cifarlab.core.registry import Spec
from tests.tiny import tiny_config

pytestmark = pytest.mark.quick

SPECS: TypeAdapter[dict[str, Spec]] = TypeAdapter(MixSpecs, config={"arbitrary_types_allowed": True})

PAIRED: dict[str, dict[str, Any]] = {
    "mixup": {"mixup": {}},
    "cutmix": {"cutmix": {}},
    "some mixup": {"mixup": {"alpha": 1.0, "p": 0.7}},
    "some cutmix": {"cutmix": {"p": 0.7}},
    "one_of": {"one_of": {"choices": {"mixup": {"alpha": 0.8, "p": 0.4}, "cutmix": {"p": 0.6}}, "p": 0.9}},
    "one after the other": {"mixup": {"p": 0.5}, "cutmix": {"p": 0.5}},
}
BATCHED: dict[str, dict[str, Any]] = {
    "mixup per batch": {"mixup": {"alpha": 1.0, "per": "batch"}},
    "cutmix per batch": {"cutmix": {"per": "batch", "p": 0.7}},
    "one_of per batch": {
        "one_of": {
            "per": "batch",
            "choices": {"mixup": {"alpha": 1.0, "per": "batch"}, "cutmix": {"per": "batch"}},
        }
    },
    "a choice per batch": {"one_of": {"per": "batch", "choices": {"mixup": {"alpha": 1.0}, "cutmix": {}}}},
}
MIXES = {**PAIRED, **BATCHED}


def batch(size: int, classes: int = 10, pixels: int = 32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(images, targets, ids, partner): random pictures under shuffled ids."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(size, 3, pixels, pixels, generator=generator)
    ids = torch.randperm(50_000, generator=generator)[:size]
    targets = torch.eye(classes)[torch.randint(classes, (size,), generator=generator)]
    return images, targets, ids, partners(size)


def run(
    mixes: dict[str, Any], images: Tensor, targets: Tensor, ids: Tensor, epoch: int = 0
) -> tuple[Tensor, Tensor]:
    partner = partners(len(ids))
    specs = SPECS.validate_python(mixes)
    return augment.mix_batch(images, targets, partner, pair_draws(0, epoch, ids, partner), specs)


def test_every_mixer_is_tested_here() -> None:
    ours = {name for name in MIXERS if MIXERS[name].call.__module__.startswith("cifarlab.")}
    assert {part for mixes in PAIRED.values() for part in mixes} == ours
    assert {part for mixes in BATCHED.values() for part in mixes} == ours


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
    assert values.min() >= 0
    assert values.max() <= 1
    extremes = torch.tensor([0.0, 2.0**-24, 0.25, 0.5, 1 - 2.0**-24])

    class Fixed(Draws):
        def uniform(self, low: float = 0.0, high: float = 1.0, shape: tuple[int, ...] = ()) -> Tensor:
            return extremes

    ends = beta(Fixed(0, 0, torch.arange(5)), alpha)
    expected = torch.from_numpy(stats.beta(alpha, alpha).ppf(extremes.double().clamp(min=2.0**-25).numpy()))
    assert (ends - expected).abs().max() < 1e-3


@pytest.mark.parametrize("name", PAIRED)
@given(start=st.integers(0, 100), size=st.integers(1, 60), threads=st.sampled_from([1, 2]))
@settings(max_examples=15, deadline=None)
def test_the_same_pair_gives_the_same_mix_in_any_batch(
    name: str, start: int, size: int, threads: int
) -> None:
    images, targets, ids, _ = batch(250)
    whole = run(PAIRED[name], images, targets, ids, epoch=3)
    rows = slice(2 * start, min(2 * start + 2 * size, 250))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        part = run(PAIRED[name], images[rows], targets[rows], ids[rows], epoch=3)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(part[0], whole[0][rows])
    assert torch.equal(part[1], whole[1][rows])


@pytest.mark.parametrize("name", MIXES)
def test_mixes_repeat_and_differ_between_epochs(name: str) -> None:
    images, targets, ids, _ = batch(64)
    mixed, mixed_targets = run(MIXES[name], images, targets, ids)
    again = run(MIXES[name], images, targets, ids)
    assert torch.equal(mixed, again[0])
    assert torch.equal(mixed_targets, again[1])
    later = [run(MIXES[name], images, targets, ids, epoch)[0] for epoch in range(1, 4)]
    assert len(torch.stack([mixed, *later]).flatten(1).unique(dim=0)) >= 3


def shares(mixes: dict[str, Any], size: int = 200, epoch: int = 0) -> Tensor:
    """(size / 2,): the first one's own share in each pair's mix."""
    images, _, ids, _ = batch(size, pixels=8)
    targets = torch.eye(2)[torch.arange(size) % 2]
    return run(mixes, images, targets, ids, epoch)[1][::2, 0]


@pytest.mark.parametrize("name", PAIRED)
def test_each_pair_has_a_lambda_of_its_own(name: str) -> None:
    found = shares({label: {**options, "p": 1.0} for label, options in PAIRED[name].items()})
    # A box in a picture of 8 pixels has one of 36 sizes.
    assert len(found.unique()) > (15 if "cutmix" in name else 40)


@pytest.mark.parametrize("name", [name for name in BATCHED if name != "a choice per batch"])
def test_a_batch_has_one_lambda_which_depends_on_it(name: str) -> None:
    images, targets, ids, _ = batch(40)
    epochs = range(12)
    each = torch.stack([shares(BATCHED[name], 40, epoch) for epoch in epochs])
    assert (each == each[:, :1]).all()
    assert len(each[:, 0].unique()) > 5
    whole = torch.stack([run(BATCHED[name], images, targets, ids, epoch)[0] for epoch in epochs])
    rest = torch.stack([run(BATCHED[name], images[2:], targets[2:], ids[2:], epoch)[0] for epoch in epochs])
    assert not torch.equal(whole[:, 2:], rest)
    first = torch.stack([run(BATCHED[name], images[:2], targets[:2], ids[:2], epoch)[0] for epoch in epochs])
    assert torch.equal(whole[:, :2], first)


@pytest.mark.parametrize("name", MIXES)
@pytest.mark.parametrize("size", [1, 2, 7, 64])
def test_results_are_pictures_and_targets(name: str, size: int) -> None:
    images, targets, ids, _ = batch(size)
    kept = images.clone(), targets.clone()
    mixed, mixed_targets = run(MIXES[name], images, targets, ids)
    assert torch.equal(images, kept[0])
    assert torch.equal(targets, kept[1])
    assert mixed.shape == images.shape
    assert mixed.dtype == torch.float32
    assert mixed.min() >= 0
    assert mixed.max() <= 1
    torch.testing.assert_close(mixed_targets.sum(1), torch.ones(size))
    assert mixed_targets.min() >= 0
    striped, _ = run(MIXES[name], images.to(memory_format=torch.channels_last), targets, ids)
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
    mixed, mixed_targets = augment.mix_batch(images, targets, partner, draws, specs)
    changed = (mixed != images).flatten(1).any(1)
    assert torch.equal(changed, changed[partner])
    assert stats.binomtest(int(changed[::2].sum()), 2000, 0.3).pvalue > 1e-3
    assert torch.equal(mixed_targets[~changed], targets[~changed])
    # Those it picks are mixed as they would be at p = 1.
    always, _ = augment.mix_batch(
        images, targets, partner, draws, SPECS.validate_python({"mixup": {"alpha": 1.0}})
    )
    assert torch.equal(mixed[changed], always[changed])


def test_mixers_run_in_order() -> None:
    images, targets, ids, partner = batch(20)
    draws = pair_draws(0, 0, ids, partner)
    both = augment.mix_batch(
        images, targets, partner, draws, SPECS.validate_python({"mixup": {}, "cutmix": {}})
    )
    first = mixup(images, targets, partner, draws.at("mixup"))
    second = cutmix(*first, partner, draws.at("cutmix"))
    assert torch.equal(both[0], second[0])
    assert torch.equal(both[1], second[1])


# Against torchvision and timm, with the lambda and the box that we drew.


def boxes(mixes: dict[str, Any], ids: Tensor, epoch: int) -> list[tuple[int, int, int, int]]:
    """Top, bottom, left and right of each pair's box, the second and fourth exclusive."""
    marked = (torch.arange(len(ids)) % 2).float().view(-1, 1, 1, 1).expand(-1, 3, 32, 32)
    painted = (run(mixes, marked, torch.ones(len(ids), 1), ids, epoch)[0] != marked)[::2, 0]
    found = []
    for box in painted:
        rows, columns = box.any(1).nonzero()[:, 0].tolist(), box.any(0).nonzero()[:, 0].tolist()
        found.append((rows[0], rows[-1] + 1, columns[0], columns[-1] + 1) if rows else (0, 0, 0, 0))
    return found


def test_pairs_are_mixed_as_torchvision_mixes_a_batch_of_two() -> None:
    images, targets, ids, partner = batch(60)
    weights = beta(pair_draws(0, 0, ids, partner).at("mixup"), 1.0)
    up, cut = run({"mixup": {"alpha": 1.0}}, images, targets, ids), run({"cutmix": {}}, images, targets, ids)
    spans = boxes({"cutmix": {}}, ids, 0)
    assert min(weights) < 0.2
    assert max(weights) > 0.8
    assert len(set(spans)) > 20
    for i in range(0, 60, 2):
        two, labels = images[i : i + 2], targets[i : i + 2]
        mixup_given = {"lam": weights[i].item(), "labels": labels, "batch_size": 2}
        top, bottom, left, right = spans[i // 2]
        area = (bottom - top) * (right - left) / 32**2
        cutmix_given = {"box": (left, top, right, bottom), "lam_adjusted": 1 - area, **mixup_given}
        for ours, transform, given_ in ((up, v2.MixUp(), mixup_given), (cut, v2.CutMix(), cutmix_given)):
            expected = transform.transform(two, given_), transform.transform(labels, given_)
            torch.testing.assert_close(ours[0][i : i + 2], expected[0], rtol=0, atol=1e-6)
            torch.testing.assert_close(ours[1][i : i + 2], expected[1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("per", ["pair", "batch"])
def test_one_of_mixes_as_timm(per: str, monkeypatch: pytest.MonkeyPatch) -> None:
    size, classes = 40, 10
    images, targets, ids, partner = batch(size)
    # timm's pairs are the first and the last, the second and the last but one, and so on.
    order = torch.cat([torch.arange(0, size, 2), torch.arange(1, size, 2).flip(0)])
    alphas = {"alpha": 0.8, "per": per}, {"alpha": 1.0, "per": per}
    mixes = {"one_of": {"choices": {"mixup": {**alphas[0], "p": 0.3}, "cutmix": alphas[1]}, "per": per}}
    seen = set()
    for epoch in range(8):
        stream = pair_draws(0, epoch, ids, partner).at("one_of")
        if per == "batch":
            stream = stream.take(torch.zeros(size, dtype=torch.int64))
        uses = (stream.uniform() >= 0.3 / 1.3)[::2].numpy()
        weights = beta(stream.at("mixup"), 0.8)[::2].numpy()
        cuts = iter(np.array(boxes({"one_of": {**mixes["one_of"], "choices": {
            "mixup": {"p": 0}, "cutmix": alphas[1]}}}, ids, epoch))[uses])  # fmt: skip

        def box_and_area(shape: Any, *_: Any, cuts: Any = cuts, **__: Any) -> tuple[Any, float]:
            box = next(cuts)
            return box, 1 - (box[1] - box[0]) * (box[3] - box[2]) / 32**2

        monkeypatch.setattr(timm_mixup, "cutmix_bbox_and_lam", box_and_area)
        theirs = timm_mixup.Mixup(0.8, 1.0, mode=per, label_smoothing=0, num_classes=classes)
        drawn = (weights[0].item(), uses[0]) if per == "batch" else (weights.copy(), uses)
        monkeypatch.setattr(theirs, f"_params_per_{'batch' if per == 'batch' else 'elem'}", lambda *_: drawn)  # noqa: B023
        expected = theirs(images[order].clone(), targets[order].argmax(1))
        ours = run(mixes, images, targets, ids, epoch)
        torch.testing.assert_close(ours[0][order], expected[0], rtol=0, atol=1e-6)
        torch.testing.assert_close(ours[1][order], expected[1], rtol=0, atol=1e-6)
        seen |= set(uses.tolist())
    assert seen == {True, False}


def test_one_of_takes_p_as_weights() -> None:
    images, targets, ids, partner = batch(8000, pixels=4)
    draws = pair_draws(0, 0, ids, partner)
    choices = {"mixup": {"alpha": 1.0, "p": 0.1}, "cutmix": {"p": 0.3}, "never": {"name": "mixup", "p": 0}}
    specs = SPECS.validate_python({"one_of": {"choices": choices}})
    ours, _ = augment.mix_batch(images, targets, partner, draws, specs)
    below = draws.at("one_of")
    up = (ours == mixup(images, targets, partner, below.at("mixup"), alpha=1.0)[0]).flatten(1).all(1)
    cut = (ours == cutmix(images, targets, partner, below.at("cutmix"))[0]).flatten(1).all(1)
    assert (up | cut).all()
    assert torch.equal(up, up[partner])
    assert stats.binomtest(int(up[::2].sum()), 4000, 0.25).pvalue > 1e-3


@pytest.mark.parametrize("choices", [{}, {"mixup": {"p": 0}}])
def test_one_of_nothing_is_refused(choices: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="at least one choice"):
        MIXERS.spec({"name": "one_of", "choices": choices})


@pytest.mark.parametrize("mixes", ["{cutmix: {per: batch}}", "{one_of: {choices: {mixup: {per: batch}}}}"])
def test_answers_to_what_is_mixed_per_batch_are_not_kept(mixes: str) -> None:
    lesson = ("data.shuffle=false", "teacher={run: other}", "data.views=2", "objective.distill={}")
    with pytest.raises(ConfigError, match=r"teacher\.cache.*depends on the batch size"):
        tiny_config(*lesson, f"data.mix={mixes}")
    tiny_config(*lesson, f"data.mix={mixes}", "teacher.cache=false")
    tiny_config(*lesson, f"data.mix={mixes.replace('batch', 'pair')}")
