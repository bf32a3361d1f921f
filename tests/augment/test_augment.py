"""Augmentations: each against a reference, the same at every batch size; and the tutorial's policy."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision.transforms.v2.functional as TF
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter
from scipy import stats
from torch import Tensor
from torchvision.transforms import v2

from cifarlab import augment
from cifarlab.augment import color, geometry, kernels
from cifarlab.core.errors import ConfigError
from cifarlab.core.random import Draws
from cifarlab.core.registries import AUGMENTS, AugmentSpecs
from cifarlab.core.registry import Spec

SPECS: TypeAdapter[dict[str, Spec]] = TypeAdapter(AugmentSpecs, config={"arbitrary_types_allowed": True})
TUTORIAL: dict[str, Any] = {
    "shift_scale_rotate": {},
    "coarse_dropout": {},
    "color_jitter": {},
    "flip": {},
    "vertical_flip": {},
}
POLICIES: dict[str, dict[str, Any]] = {
    "crop": {"crop": {}},
    "crop reflect": {"crop": {"border": "reflect", "padding": 7}},
    "crop filled": {"crop": {"border": "constant", "fill": 0.5, "p": 0.5}},
    "flip": {"flip": {"p": 0.5}},
    "alternating_flip": {"alternating_flip": {}},
    "vertical_flip": {"vertical_flip": {"p": 0.5}},
    "shift_scale_rotate": {"shift_scale_rotate": {}},
    "warp reflect": {"shift_scale_rotate": {"border": "reflect", "rotate": 180, "shift": 0.5}},
    "warp filled": {"shift_scale_rotate": {"fill": 0.3, "p": 0.5}},
    "color_jitter": {"color_jitter": {}},
    "strong jitter": {"color_jitter": {"brightness": 1, "contrast": 1, "saturation": 1, "hue": 0, "p": 0.5}},
    "coarse_dropout": {"coarse_dropout": {}},
    "cutout": {"cutout": {"fill": 0.5, "p": 0.7}},
    "tutorial": {"one_of": {"choices": TUTORIAL}},
    "nested": {
        "one_of": {
            "choices": {
                "spin": {"name": "shift_scale_rotate", "rotate": 180},
                "shift": {"name": "shift_scale_rotate", "rotate": 0, "p": 0.5},
                "inner": {"name": "one_of", "choices": {"flip": {}, "cutout": {}}},
            },
            "p": 0.8,
        },
        "crop": {},
    },
    "shear_x": {"shear_x": {}},
    "shear_y": {"shear_y": {"interpolation": "bilinear", "fill": 0.5}},
    "translate_x": {"translate_x": {"shift": 1.0}},
    "translate_y": {"translate_y": {"shift": 1.0, "interpolation": "bilinear"}},
    "rotate": {"rotate": {"degrees": 180, "fill": 0.3, "p": 0.9}},
    "brightness": {"brightness": {}},
    "color": {"color": {"strength": 2}},
    "contrast": {"contrast": {"p": 0.8}},
    "sharpness": {"sharpness": {}},
    "posterize": {"posterize": {"bits": [0, 8]}},
    "solarize": {"solarize": {"p": 0.9}},
    "auto_contrast": {"auto_contrast": {"p": 0.5}},
    "equalize": {"equalize": {"p": 0.5}},
    "invert": {"invert": {"p": 0.5}},
    "rand_augment": {"rand_augment": {}},
    "rand_augment smooth": {"rand_augment": {"magnitude": 20, "interpolation": "bilinear"}},
    "rand_augment long": {"rand_augment": {"num_operations": 4, "fill": 0.5}},
    "trivial_augment_wide": {"trivial_augment_wide": {"fill": 0.5}},
    "auto_augment": {"auto_augment": {}},
    "aug_mix": {"aug_mix": {}},
    "aug_mix long": {"aug_mix": {"num_chains": 5, "severity": 10, "all_operations": False, "fill": 0.5}},
    "random_erasing": {"random_erasing": {"fill": 0.5, "p": 0.9}},
    "albumentations": {
        "albumentations": {
            "transforms": [
                {"Affine": {"rotate": [-20, 20], "p": 0.8}},
                {"OneOf": {"transforms": ["HorizontalFlip", "ColorJitter"], "p": 0.9}},
                {"CoarseDropout": {"p": 0.5}},
            ],
            "p": 0.9,
        }
    },
    "searched": {
        "one_of": {
            "choices": {
                "shear_x": {}, "rotate": {}, "color": {}, "brightness": {}, "posterize": {}, "solarize": {},
                "invert": {}, "equalize": {}, "auto_contrast": {}, "sharpness": {}, "rand_augment": {},
            }
        }
    },
}  # fmt: skip
# Parts that draw little beside who is picked, and how many views of one picture there are at least.
FEW_VIEWS = {
    "flip": 2, "alternating_flip": 2, "vertical_flip": 2, "invert": 2, "auto_contrast": 2, "equalize": 2,
    "posterize": 9,
}  # fmt: skip


def parse(policy: dict[str, Any]) -> dict[str, Spec]:
    return SPECS.validate_python(policy)


def pictures(size: int, height: int = 32, width: int = 32) -> Tensor:
    """Noise in 8 bits, with some white, black and gray."""
    generator = torch.Generator().manual_seed(size)
    images = torch.randint(256, (size, 3, height, width), generator=generator).float() / 255
    images[::5, :, : height // 2] = images[::5, :1, : height // 2]
    images[::7, :, height // 2 :] = 1.0
    images[::11, :, :, : width // 2] = 0.0
    return images


def run(policy: dict[str, Any], images: Tensor, epoch: int = 0, first: int = 0) -> Tensor:
    """The views of samples number `first` and so on."""
    indices = torch.arange(first, first + len(images), device=images.device)
    return augment.apply(images, Draws(0, epoch, indices), parse(policy))


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


# What holds for all of them.


@pytest.mark.parametrize("name", POLICIES)
def test_the_same_sample_gets_the_same_view_in_any_batch(
    name: str, threads: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    policy, images = POLICIES[name], pictures(100)
    expected = run(policy, images)
    for count, size, until in ((1, 1, 15), (1, 7, 98), (2, 1, 5), (2, 7, 35), (2, 100, 100)):
        threads(count)
        views = [run(policy, images[i : i + size], first=i) for i in range(0, until, size)]
        assert torch.equal(torch.cat(views)[:until], expected[:until]), (
            f"batches of {size} on {count} threads"
        )
    striped = images.to(memory_format=torch.channels_last)
    assert torch.equal(run(policy, striped), expected)
    # As a device computes it that cannot choose rows.
    monkeypatch.setattr(kernels, "_computes_rows_alone", lambda _: False)
    assert torch.equal(run(policy, images), expected)
    assert torch.equal(run(policy, striped), expected)


@given(
    name=st.sampled_from(list(POLICIES)),
    start=st.integers(0, 60),
    size=st.integers(1, 70),
    height=st.sampled_from([8, 28, 32, 33]),
    width=st.sampled_from([8, 31, 32, 64]),
    epoch=st.integers(0, 300),
)
@settings(max_examples=50, deadline=None)
def test_the_same_sample_gets_the_same_view_at_any_size(
    name: str, start: int, size: int, height: int, width: int, epoch: int
) -> None:
    images = pictures(71, height, width)
    part = images[start : start + size]
    views = run(POLICIES[name], part, epoch, first=start)
    assert torch.equal(views, run(POLICIES[name], images, epoch)[start : start + size])


@pytest.mark.parametrize("name", POLICIES)
def test_views_are_pictures(name: str) -> None:
    for size, height, width in ((1, 32, 32), (64, 32, 32), (9, 20, 48)):
        images = pictures(size, height, width)
        kept = images.clone()
        views = run(POLICIES[name], images)
        assert torch.equal(images, kept), "the pictures that were given have changed"
        assert views.shape == images.shape
        assert views.dtype == torch.float32
        assert views.isfinite().all()
        assert views.min() >= 0
        assert views.max() <= 1


@pytest.mark.parametrize("name", POLICIES)
def test_parameters_differ_within_a_batch_and_between_epochs(name: str) -> None:
    images = (pictures(1) * 0.9).expand(100, -1, -1, -1)
    views = run(POLICIES[name], images)
    distinct = len(views.flatten(1).unique(dim=0))
    assert distinct >= FEW_VIEWS.get(name, 30)
    assert not torch.equal(views, run(POLICIES[name], images, epoch=1))


def test_every_part_is_tested_here() -> None:
    ours = {name for name in AUGMENTS if AUGMENTS[name].call.__module__.startswith("cifarlab.")}
    assert {part for policy in POLICIES.values() for part in policy} == ours


# Probabilities and streams.


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_p_is_the_fraction_of_pictures(p: float) -> None:
    images = torch.rand(4000, 3, 8, 8)
    changed = (run({"flip": {"p": p}}, images) != images).flatten(1).any(1)
    assert stats.binomtest(int(changed.sum()), 4000, p).pvalue > 1e-3


def test_p_leaves_the_parameters_alone() -> None:
    images = torch.ones(500, 3, 16, 16)
    always, often, seldom = (run({"cutout": {"p": p}}, images) for p in (1, 0.8, 0.3))
    for some in (often, seldom):
        changed = (some != images).flatten(1).any(1)
        assert changed.any()
        assert torch.equal(some[changed], always[changed])
    # Who is picked at a low p is picked at a higher one.
    assert ((often != images) | (seldom == images)).all()


def test_a_part_does_not_notice_the_others() -> None:
    # Flips leave white pictures as they are, so that the holes show what was drawn.
    images = torch.ones(200, 3, 16, 16)
    alone = run({"cutout": {}}, images)
    assert torch.equal(run({"vertical_flip": {"p": 0.5}, "flip": {"p": 0.5}, "cutout": {}}, images), alone)
    assert not torch.equal(run({"other": {"name": "cutout"}}, images), alone)


def test_parts_run_in_order() -> None:
    images, draws = pictures(50), Draws(0, 0, torch.arange(50))
    ours = augment.apply(images, draws, parse({"flip": {}, "crop": {}}))
    assert torch.equal(ours, geometry.crop(images.flip(-1), draws.at("crop")))


def test_any_function_is_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AUGMENTS, "_parts", dict(AUGMENTS._parts))

    @AUGMENTS.register
    def darken(images: Tensor, draws: Draws, *, most: float = 0.5) -> Tensor:
        return images * draws.uniform(most, 1.0).view(-1, 1, 1, 1)

    images, draws = pictures(100), Draws(0, 0, torch.arange(100))
    expected = darken(images, draws.at("darken"), most=0.2)
    assert torch.equal(augment.apply(images, draws, parse({"darken": {"most": 0.2}})), expected)
    half = augment.apply(images, draws, parse({"darken": {"most": 0.2, "p": 0.5}}))
    changed = (half != images).flatten(1).any(1)
    assert 20 < changed.sum() < 80
    assert torch.equal(half[changed], expected[changed])
    for chosen in (
        run({"one_of": {"choices": {"darken": {}, "flip": {}}}}, images[i : i + 1], first=i) for i in range(5)
    ):
        assert chosen.shape == (1, 3, 32, 32)


# one_of.


def test_one_of_is_one_of_its_choices() -> None:
    images, draws = pictures(1000), Draws(0, 0, torch.arange(1000))
    specs = parse({"one_of": {"choices": TUTORIAL}})
    ours = augment.apply(images, draws, specs)
    below = draws.at("one_of")
    matches = []
    for label, spec in parse(TUTORIAL).items():
        alone = spec.build(images, below.at(label))
        matches.append((alone == ours).flatten(1).all(1))
    # Some pictures are the same under two choices, black halves or white ones.
    assert torch.stack(matches).any(0).all()
    for match in matches:
        assert 150 < match.sum() < 260


def test_one_of_takes_p_as_weights() -> None:
    images = torch.rand(5000, 3, 8, 8)
    policy = {
        "one_of": {
            "choices": {"flip": {"p": 0.1}, "vertical_flip": {"p": 0.3}, "crop": {"padding": 0, "p": 0}}
        }
    }
    ours = run(policy, images)
    flipped = (ours == images.flip(-1)).flatten(1).all(1)
    assert ((ours == images.flip(-2)).flatten(1).all(1) | flipped).all()
    assert stats.binomtest(int(flipped.sum()), 5000, 0.25).pvalue > 1e-3


def test_choices_share_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    sample = F.grid_sample
    monkeypatch.setattr(F, "grid_sample", lambda *args, **kwargs: calls.append(1) or sample(*args, **kwargs))
    warps = {"a": {"name": "shift_scale_rotate"}, "b": {"name": "shift_scale_rotate", "rotate": 0}}
    run({"one_of": {"choices": warps}}, pictures(20))
    assert len(calls) == 1
    run({"one_of": {"choices": {**warps, "c": {"name": "shift_scale_rotate", "fill": 1.0}}}}, pictures(20))
    assert len(calls) == 3


@pytest.mark.parametrize("choices", [{}, {"flip": {"p": 0}}])
def test_one_of_nothing_is_refused(choices: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="at least one choice"):
        AUGMENTS.spec({"name": "one_of", "choices": choices})


def test_options_out_of_range_are_refused() -> None:
    wrong = {
        "crop": {"padding": -1},
        "cutout": {"size": 0},
        "shift_scale_rotate": {"border": "wrap"},
        "color_jitter": {"hue": 0.6},
        "coarse_dropout": {"height": [0.3, 0.1]},
        "random_erasing": {"ratio": [0, 1]},
    }
    for name, options in wrong.items():
        with pytest.raises(ConfigError) as raised:
            AUGMENTS.spec({"name": name, **options})
        assert raised.value.path[0] == next(iter(options))


# Geometry.


@pytest.mark.parametrize("size", [(32, 32), (28, 28), (33, 7), (224, 224)])
def test_flips_are_exact(size: tuple[int, int]) -> None:
    images = torch.rand(9, 3, *size)
    assert torch.equal(run({"flip": {}}, images), images.flip(-1))
    assert torch.equal(run({"vertical_flip": {}}, images), images.flip(-2))
    both = run({"one_of": {"choices": {"flip": {}, "vertical_flip": {}}}}, images)
    either = [(both == images.flip(axis)).flatten(1).all(1) for axis in (-1, -2)]
    assert torch.stack(either).any(0).all()


def test_an_alternating_flip_shows_each_picture_both_ways_in_turn() -> None:
    images = pictures(2000, 8, 8)
    epochs = [run({"alternating_flip": {}}, images, epoch) for epoch in range(4)]
    mirrored = (epochs[0] == images.flip(-1)).flatten(1).all(1)
    assert torch.equal(epochs[0][mirrored], images.flip(-1)[mirrored])
    assert torch.equal(epochs[0][~mirrored], images[~mirrored])
    symmetric = (images == images.flip(-1)).flatten(1).all(1)
    drawn = mirrored[~symmetric]
    assert stats.binomtest(int(drawn.sum()), len(drawn), 0.5).pvalue > 1e-3
    for earlier, later in itertools.pairwise(epochs):
        assert torch.equal(later, earlier.flip(-1))


def test_an_alternating_flip_is_the_same_below_a_policy_and_in_part_of_a_batch() -> None:
    """A policy may draw the flip for some rows alone, from a stream below its own."""
    images, choices = pictures(200), {"choices": {"alternating_flip": {}}}
    for epoch in (0, 1):
        below = run({"one_of": choices}, images, epoch)
        draws = Draws(0, epoch, torch.arange(200)).at("one_of").at("alternating_flip")
        assert torch.equal(below, geometry.alternating_flip(images, draws))
        rows = torch.arange(199, -1, -3)
        assert torch.equal(below[rows], geometry.alternating_flip(images[rows], draws.take(rows)))


@pytest.mark.parametrize(
    ("border", "fill", "mode"),
    [
        ("constant", 0.0, "constant"),
        ("constant", 0.25, "constant"),
        ("reflect", 0.0, "reflect"),
        ("replicate", 0.0, "edge"),
    ],
)
def test_crop_against_a_loop(border: str, fill: float, mode: Any) -> None:
    images, draws = pictures(200, 20, 32), Draws(0, 0, torch.arange(200))
    ours = augment.apply(images, draws, parse({"crop": {"padding": 3, "border": border, "fill": fill}}))
    corners = (draws.at("crop").integers(-3, 4, shape=(2,)) + 3).tolist()
    options: dict[str, Any] = {"constant_values": fill} if mode == "constant" else {}
    for picture, view, (top, left) in zip(images.numpy(), ours.numpy(), corners, strict=True):
        padded = np.pad(picture, ((0, 0), (3, 3), (3, 3)), mode=mode, **options)
        assert np.array_equal(view, padded[:, top : top + 20, left : left + 32])
    assert {tuple(corner) for corner in corners} > set(itertools.product((0, 6), repeat=2))


@pytest.mark.parametrize("size", [(32, 32), (28, 40)])
def test_warp_against_torchvision(size: tuple[int, int]) -> None:
    images = torch.rand(40, 3, *size)
    generator = torch.Generator().manual_seed(0)
    degrees = torch.rand(40, generator=generator) * 360 - 180
    scale = torch.rand(40, generator=generator) + 0.5
    shift = torch.randint(-9, 10, (40, 2), generator=generator).float()
    matrix = geometry.affine_matrix(scale[:, None].expand(-1, 2), degrees, shift)
    ours = geometry.Warp()(images, matrix)
    for i in range(40):
        reference = TF.affine(
            images[i],
            # Torchvision's angles run clockwise.
            angle=-degrees[i].item(),
            translate=shift[i].tolist(),
            scale=scale[i].item(),
            shear=[0.0, 0.0],
            interpolation=TF.InterpolationMode.BILINEAR,
        )
        # Positions reach 32 pixels, where float32 has steps of 4e-6; neighbouring pixels differ by up to 1.
        torch.testing.assert_close(ours[i], reference, rtol=0, atol=2e-5)


def test_warp_borders() -> None:
    images = torch.rand(5, 3, 16, 20)
    shift = torch.tensor([[3.0, -5.0]]).expand(5, -1)
    matrix = geometry.affine_matrix(torch.ones(5, 2), torch.zeros(5), shift)
    for border, mode in (("constant", "constant"), ("reflect", "reflect"), ("replicate", "replicate")):
        padded = F.pad(images, (5, 5, 5, 5), mode=mode, **({"value": 0.25} if mode == "constant" else {}))
        warped = geometry.Warp(border, 0.25)(images, matrix)  # pyright: ignore[reportArgumentType]
        torch.testing.assert_close(warped, padded[:, :, 10:26, 2:22], rtol=0, atol=1e-5)


def test_a_warp_that_moves_nothing() -> None:
    images = pictures(20, 28, 28)
    still = run({"shift_scale_rotate": {"shift": 0, "scale": 0, "rotate": 0}}, images)
    torch.testing.assert_close(still, images, rtol=0, atol=1e-5)


def test_shifts_are_whole_pixels() -> None:
    images = torch.zeros(4000, 3, 33, 33)
    images[:, :, 16, 16] = 1
    views = run({"shift_scale_rotate": {"scale": 0, "rotate": 0, "shift": 2 / 33}}, images)
    places = views[:, 0].flatten(1).argmax(1)
    counts = torch.stack([(places // 33 == row).sum() for row in (15, 16, 17)])
    assert counts.sum() == 4000
    assert stats.chisquare(counts.numpy(), [1000, 2000, 1000]).pvalue > 1e-3


# Colors.


@pytest.mark.parametrize("factor", [0.0, 0.3, 0.8, 1.0, 1.2, 2.5])
def test_blends_against_torchvision(factor: float) -> None:
    images, size = pictures(30), 30
    full, rest, none = torch.full((size,), factor), torch.full((size,), 1 - factor), torch.zeros(size)
    pairs = (
        (color.blend(images, full, none, none), TF.adjust_brightness(images, factor)),
        (color.blend(images, full, rest, none), TF.adjust_saturation(images, factor)),
        (color.blend(images, full, none, rest), TF.adjust_contrast(images, factor)),
    )
    for ours, reference in pairs:
        torch.testing.assert_close(ours, reference, rtol=0, atol=1e-5)
    assert torch.equal(color.blend(images, torch.ones(size), none, none), images)


@pytest.mark.parametrize("turn", [-0.5, -0.31, -0.01, 0.0, 1 / 6, 0.25, 0.5])
def test_hue_against_torchvision(turn: float) -> None:
    images = pictures(30)
    ours = color.shift_hue(images, torch.full((30,), turn))
    torch.testing.assert_close(ours, TF.adjust_hue(images, turn), rtol=0, atol=1e-5)


def test_color_jitter_against_torchvision_in_each_order() -> None:
    size = 200
    images, draws = pictures(size), Draws(0, 0, torch.arange(size))
    options = {"brightness": 0.6, "contrast": 0.7, "saturation": 0.8, "hue": 0.4}
    ours = augment.apply(images, draws, parse({"color_jitter": options}))
    stream = draws.at("color_jitter")
    numbers = stream.uniform(-1.0, 1.0, shape=(8,))
    orders = numbers[:, 4:].argsort(dim=1).tolist()
    adjust = (TF.adjust_brightness, TF.adjust_contrast, TF.adjust_saturation, TF.adjust_hue)
    for i, order in enumerate(orders):
        expected = images[i]
        for kind in order:
            number = numbers[i, kind].item() * list(options.values())[kind]
            expected = adjust[kind](expected, number if kind == 3 else 1 + number)
        # The hue of a nearly gray pixel is a quotient of small differences, which magnifies what the blends
        # round.
        torch.testing.assert_close(ours[i], expected, rtol=0, atol=2e-5)
    assert len({tuple(order) for order in orders}) == 24


def test_equal_keys_still_make_an_order() -> None:
    ranks = color._ranks(torch.tensor([[0.5, 0.1, 0.5, 0.1], [0.0, 0.0, 0.0, 0.0], [4.0, 3.0, 2.0, 1.0]]))
    assert ranks.tolist() == [[2, 0, 3, 1], [0, 1, 2, 3], [3, 2, 1, 0]]


def test_mean_is_exact() -> None:
    values = torch.rand(50, 1, 224, 224)
    ours = color.mean_exact(values)
    assert (ours.double() - values.double().mean((1, 2, 3))).abs().max() < 2**-21
    order = torch.randperm(224 * 224)
    assert torch.equal(color.mean_exact(values.flatten(1)[:, order]), ours)
    assert torch.equal(color.mean_exact(torch.ones(1, 5)), torch.ones(1))


# Erasing.


def test_coarse_dropout_paints_holes_within_the_picture() -> None:
    size, side = 6000, 32
    holes = run({"coarse_dropout": {"holes": [1, 1]}}, torch.ones(size, 3, side, side))[:, 0] == 0
    tall, wide = holes.any(2).sum(1), holes.any(1).sum(1)
    assert torch.equal(tall * wide, holes.flatten(1).sum(1))
    # int(32 x uniform(0.1, 0.2)) is 3, 4, 5 or 6.
    chances = np.array([0.8, 1.0, 1.0, 0.4]) / 3.2
    for length in (tall, wide):
        counts = torch.bincount(length, minlength=7)
        assert counts[:3].sum() == 0
        assert len(counts) == 7
        assert stats.chisquare(counts[3:].numpy(), size * chances).pvalue > 1e-3
    top = holes.any(2).int().argmax(1)
    assert stats.chisquare(torch.bincount(top[tall == 4], minlength=29).numpy()).pvalue > 1e-3


def test_coarse_dropout_counts_holes() -> None:
    images = torch.ones(4000, 3, 100, 100)[:, :1].expand(-1, 3, -1, -1)
    options = {"holes": [1, 3], "height": [0.01, 0.01], "width": [0.01, 0.01], "fill": 0.5}
    painted = (run({"coarse_dropout": options}, images)[:, 0] == 0.5).flatten(1).sum(1)
    # Two of these single pixels coincide in 1 of 10,000.
    counts = torch.bincount(painted, minlength=4)
    assert counts[0] == 0
    assert stats.chisquare(counts[1:].numpy()).pvalue > 1e-3


@pytest.mark.parametrize("length", [1, 8, 15])
def test_cutout_is_a_square_about_any_pixel(length: int) -> None:
    size, side = 4000, 32
    holes = run({"cutout": {"size": length}}, torch.ones(size, 3, side, side))[:, 0] == 0
    tall, wide = holes.any(2).sum(1), holes.any(1).sum(1)
    assert torch.equal(tall * wide, holes.flatten(1).sum(1))
    assert tall.max() == length
    assert tall.min() == (length - length // 2 if length > 1 else 1)
    expected = (side - length + 1) / side
    assert stats.binomtest(int((tall == length).sum()), size, expected).pvalue > 1e-3


def test_random_erasing_draws_boxes_as_torchvision_does() -> None:
    size, rows, columns = 4000, 24, 40
    transform = v2.RandomErasing(p=1)
    torch.manual_seed(0)
    theirs = [transform.make_params([torch.empty(3, rows, columns)]) for _ in range(size)]
    painted = run({"random_erasing": {}}, torch.ones(size, 3, rows, columns))[:, 0] == 0
    found = {
        "h": painted.any(2).sum(1),
        "w": painted.any(1).sum(1),
        "i": painted.any(2).int().argmax(1),
        "j": painted.any(1).int().argmax(1),
    }
    assert torch.equal(found["h"] * found["w"], painted.flatten(1).sum(1))
    for name, numbers in found.items():
        assert stats.ks_2samp(numbers.numpy(), [params[name] for params in theirs]).pvalue > 1e-3, name


def test_a_picture_stays_whole_where_no_box_fits() -> None:
    images = torch.rand(100, 3, 16, 16)
    assert torch.equal(run({"random_erasing": {"area": [1, 1]}}, images), images)


# The tutorial's policy, against the library it used.


@pytest.fixture(scope="module")
def albumentations() -> Any:
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setenv("NO_ALBUMENTATIONS_UPDATE", "1")
        warnings.simplefilter("ignore")
        import albumentations

    return albumentations


def features(views: np.ndarray, originals: np.ndarray) -> dict[str, np.ndarray]:
    """What is compared, one number a picture: (N, 32, 32, 3) uint8 to (N,) each."""
    light = views.astype(np.float32) / 255
    change = np.abs(light - originals.astype(np.float32) / 255)
    return {
        "mean": light.mean((1, 2, 3)),
        "variance": light.var((1, 2, 3)),
        "pixels changed": (change.max(3) > 1.5 / 255).mean((1, 2)),
        "change": change.mean((1, 2, 3)),
        "black": (views == 0).all(3).mean((1, 2)),
        "saturation": (light.max(3) - light.min(3)).mean((1, 2)),
        "top": light[:, :16].mean((1, 2, 3)),
        "left": light[:, :, :16].mean((1, 2, 3)),
        "center": light[:, 12:20, 12:20].mean((1, 2, 3)),
    }


def _distance(first: np.ndarray, second: np.ndarray) -> float:
    """Kolmogorov's and Smirnov's, between two samples."""
    result: Any = stats.ks_2samp(first, second, method="asymp")
    return result.statistic


@pytest.mark.filterwarnings("ignore:ShiftScaleRotate is a special case")
@pytest.mark.parametrize("name", [*TUTORIAL, "one_of"])
def test_the_distribution_is_that_of_albumentations(
    name: str, real_pictures: np.ndarray, albumentations: Any
) -> None:
    kinds = ("ShiftScaleRotate", "CoarseDropout", "ColorJitter", "HorizontalFlip", "VerticalFlip")
    library = {ours: getattr(albumentations, theirs) for ours, theirs in zip(TUTORIAL, kinds, strict=True)}
    if name == "one_of":
        transform = albumentations.Compose(
            [albumentations.OneOf([make() for make in library.values()], p=1)], seed=0
        )
    else:
        transform = albumentations.Compose([library[name](p=1)], seed=0)
    originals = np.concatenate([real_pictures] * 2)
    theirs = features(np.stack([transform(image=picture)["image"] for picture in originals]), originals)
    images = torch.from_numpy(originals.transpose(0, 3, 1, 2).copy()).float() / 255
    views = run({"one_of": {"choices": TUTORIAL}} if name == "one_of" else {name: {}}, images)
    ours = features((views * 255).round().byte().permute(0, 2, 3, 1).numpy(), originals)
    for what, value in ours.items():
        difference = value - theirs[what]
        error = difference.std() / math.sqrt(len(difference))
        # Albumentations cuts brightness and contrast to 8 bits instead of rounding: half a level each.
        bias = {"color_jitter": 1 / 255, "one_of": 1 / 255 / 5}.get(name, 0)
        allowed = 4 * error + bias + 1e-6
        assert abs(difference.mean()) <= allowed, (
            f"{what}: {value.mean():.4f}, theirs {theirs[what].mean():.4f}"
        )
        # And the whole distribution.
        distance = _distance(value, theirs[what])
        assert distance < 0.045, f"{what}: {distance:.3f}"


# Devices.


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", POLICIES)
def test_a_gpu_shows_the_same_pictures(name: str) -> None:
    images = pictures(250)
    cpu, cuda = run(POLICIES[name], images), run(POLICIES[name], images.cuda())
    assert cuda.device.type == "cuda"
    agree = ((cpu - cuda.cpu()).abs() <= 1 / 255).all(1).float().mean()
    assert agree >= 0.999
