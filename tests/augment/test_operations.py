"""The operations of the searched policies, each against torchvision's on the same parameters."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as TF
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from cifarlab.augment import enhance, tones, warps
from cifarlab.augment.geometry import Warp
from cifarlab.core.errors import ConfigError
from cifarlab.core.random import Draws
from cifarlab.core.registries import AUGMENTS

pytestmark = pytest.mark.quick

MODES = {"nearest": TF.InterpolationMode.NEAREST, "bilinear": TF.InterpolationMode.BILINEAR}
STILL: dict[str, Any] = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]}


def theirs(name: str, picture: Tensor, magnitude: float, **warp: Any) -> Tensor:
    """Torchvision's operation, called as its policies call it."""
    slope = math.degrees(math.atan(magnitude))
    calls: dict[str, Callable[[], Tensor]] = {
        "shear_x": lambda: TF.affine(picture, **{**STILL, "shear": [slope, 0.0]}, center=[0, 0], **warp),
        "shear_y": lambda: TF.affine(picture, **{**STILL, "shear": [0.0, slope]}, center=[0, 0], **warp),
        "translate_x": lambda: TF.affine(picture, **{**STILL, "translate": [int(magnitude), 0]}, **warp),
        "translate_y": lambda: TF.affine(picture, **{**STILL, "translate": [0, int(magnitude)]}, **warp),
        "rotate": lambda: TF.rotate(picture, magnitude, **warp),
        "brightness": lambda: TF.adjust_brightness(picture, magnitude),
        "color": lambda: TF.adjust_saturation(picture, magnitude),
        "contrast": lambda: TF.adjust_contrast(picture, magnitude),
        "sharpness": lambda: TF.adjust_sharpness(picture, magnitude),
        "posterize": lambda: TF.posterize(picture, int(magnitude)),
        "solarize": lambda: TF.solarize(picture, magnitude),
        "invert": lambda: TF.invert(picture),
        "auto_contrast": lambda: TF.autocontrast(picture),
        "equalize": lambda: TF.equalize(picture),
    }
    return calls[name]()


def ours(name: str, images: Tensor, magnitudes: Tensor, mode: Any = "nearest", fill: float = 0.0) -> Tensor:
    if name in WARPS:
        matrix = getattr(warps, f"{name}_matrix")(magnitudes, *images.shape[-2:])
        return Warp("constant", fill, mode)(images, matrix)
    if name in ("brightness", "color", "contrast"):
        return enhance.blend_each(images, getattr(enhance, f"{name}_factors")(magnitudes))
    kernels = {
        "sharpness": (enhance.sharpen, magnitudes),
        "posterize": (tones.cut_levels, torch.exp2(magnitudes.trunc())),
        "solarize": (tones.invert_above, magnitudes),
        "invert": (tones.invert_above, torch.zeros_like(magnitudes)),
    }
    if name in kernels:
        kernel, values = kernels[name]
        return kernel(images, values)
    return {"auto_contrast": tones.stretch, "equalize": tones.equalize_levels}[name](images)


WARPS = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
# Range of magnitudes, and whether pixels may jump: of those, 99.9 % are compared.
OTHERS: dict[str, tuple[float, float, bool]] = {
    "brightness": (0.0, 2.5, False),
    "color": (0.0, 2.5, False),
    "contrast": (0.0, 2.5, False),
    "sharpness": (0.0, 2.5, False),
    "invert": (0.0, 0.0, False),
    "posterize": (0.0, 8.999, True),
    "solarize": (0.0, 1.0, True),
    "auto_contrast": (0.0, 0.0, False),
    "equalize": (0.0, 0.0, True),
}
REACH = {"shear_x": 1.0, "shear_y": 1.0, "translate_x": 40.0, "translate_y": 40.0, "rotate": 180.0}


def agree(found: Tensor, expected: Tensor, jumps: bool, tolerance: float = 1e-5) -> None:
    far = ((found - expected).abs() > tolerance).float().mean().item()
    assert far <= (1e-3 if jumps else 0.0), f"{far:.2%} of the values differ"


def light(pictures: np.ndarray) -> Tensor:
    return torch.from_numpy(pictures.transpose(0, 3, 1, 2).copy()).float() / 255


def spread(low: float, high: float, count: int) -> Tensor:
    return torch.rand(count, generator=torch.Generator().manual_seed(0)) * (high - low) + low


@pytest.mark.parametrize("fill", [0.0, 0.5])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", WARPS)
def test_warps_of_real_pictures(name: str, mode: str, fill: float, real_pictures: np.ndarray) -> None:
    images = light(real_pictures[:200])
    magnitudes = spread(-REACH[name], REACH[name], 200)
    found = ours(name, images, magnitudes, mode, fill)
    given: dict[str, Any] = {"interpolation": MODES[mode]}
    # Torchvision's own fill weights a blended edge twice, and leaves it dark.
    expected = [fill + theirs(name, images[i] - fill, magnitudes[i].item(), **given) for i in range(200)]
    agree(found, torch.stack(expected), jumps=mode == "nearest")


@pytest.mark.parametrize("name", WARPS)
def test_fill_of_real_pictures(name: str, real_pictures: np.ndarray) -> None:
    images = light(real_pictures[:200])
    magnitudes = spread(-REACH[name], REACH[name], 200)
    found = ours(name, images, magnitudes, "nearest", 0.5)
    expected = [theirs(name, images[i], magnitudes[i].item(), fill=0.5) for i in range(200)]
    agree(found, torch.stack(expected), jumps=True)


@pytest.mark.parametrize("light_left", [1.0, 0.77])
@pytest.mark.parametrize("name", OTHERS)
def test_operations_on_real_pictures(name: str, light_left: float, real_pictures: np.ndarray) -> None:
    # Dimmed, values lie between those of 8 bits.
    images = light(real_pictures[:300]) * light_left
    low, high, jumps = OTHERS[name]
    magnitudes = spread(low, high, 300)
    found = ours(name, images, magnitudes)
    expected = torch.stack([theirs(name, images[i], magnitudes[i].item()) for i in range(300)])
    agree(found, expected, jumps)


@given(
    name=st.sampled_from([*WARPS, *OTHERS]),
    seed=st.integers(0, 1000),
    height=st.integers(2, 40),
    width=st.integers(2, 40),
    levels=st.sampled_from([1, 2, 20, 256]),
    place=st.floats(0.0, 1.0),
)
@settings(max_examples=200, deadline=None)
def test_operations_on_any_picture(
    name: str, seed: int, height: int, width: int, levels: int, place: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    # Few levels make flat channels, and equalisations that are none.
    images = torch.randint(levels, (2, 3, height, width), generator=generator) * (255 // levels) / 255
    if name in WARPS:
        low, high = -REACH[name], REACH[name]
        given: dict[str, Any] = {"interpolation": TF.InterpolationMode.BILINEAR}
        # A reach of 40 pixels and a picture of another size: float32 of a position is that much coarser.
        tolerance = 5e-5
    else:
        low, high, _ = OTHERS[name]
        given, tolerance = {}, 1e-5
    magnitude = float(np.float32(low + place * (high - low)))
    found = ours(name, images, torch.full((2,), magnitude), "bilinear")
    expected = torch.stack([theirs(name, picture, magnitude, **given) for picture in images])
    agree(found, expected, jumps=False, tolerance=tolerance)


@pytest.mark.parametrize("size", [(2, 9), (9, 2), (3, 3), (3, 9), (9, 3)])
def test_sharpness_of_the_smallest_pictures(size: tuple[int, int]) -> None:
    images = torch.rand(4, 3, *size)
    found = ours("sharpness", images, torch.full((4,), 0.3))
    agree(found, TF.adjust_sharpness(images, 0.3), jumps=False)


@pytest.mark.parametrize("name", OTHERS)
def test_parameters_are_each_pictures_own(name: str) -> None:
    images = torch.rand(40, 3, 12, 20, generator=torch.Generator().manual_seed(1))
    low, high, _ = OTHERS[name]
    magnitudes = spread(low, high, 40)
    together = ours(name, images, magnitudes)
    for i in range(40):
        assert torch.equal(ours(name, images[i : i + 1], magnitudes[i : i + 1])[0], together[i])


# What the registered parts draw.


@pytest.mark.parametrize(
    ("name", "options", "reach"),
    [
        ("shear_x", {"shear": 0.2}, 0.2),
        ("shear_y", {"shear": 0.2}, 0.2),
        ("translate_x", {"shift": 0.25}, 5.0),
        ("translate_y", {"shift": 0.5}, 6.0),
        ("rotate", {"degrees": 70}, 70.0),
    ],
)
def test_a_warp_draws_its_magnitude_either_way(name: str, options: dict[str, Any], reach: float) -> None:
    images, draws = torch.rand(100, 3, 12, 20), Draws(0, 0, torch.arange(100))
    stream = draws.at(name)
    found = AUGMENTS.spec({"name": name, **options, "fill": 0.5}).build(images, stream)
    magnitudes = draws.at(name).uniform(-reach, reach)
    assert torch.equal(found, ours(name, images, magnitudes, fill=0.5))


@pytest.mark.parametrize("strength", [0.5, 1.5])
@pytest.mark.parametrize("name", ["brightness", "color", "contrast", "sharpness"])
def test_an_enhancement_draws_its_factor_about_one(name: str, strength: float) -> None:
    images, draws = torch.rand(100, 3, 12, 20), Draws(0, 0, torch.arange(100))
    found = AUGMENTS.spec({"name": name, "strength": strength}).build(images, draws.at(name))
    factors = draws.at(name).uniform(max(0.0, 1 - strength), 1 + strength)
    assert torch.equal(found, ours(name, images, factors))


def test_posterize_draws_bits_inclusively() -> None:
    images = torch.linspace(0, 1, 12 * 64).view(1, 1, 12, 64).expand(2000, 3, -1, -1)
    spec = AUGMENTS.spec({"name": "posterize", "bits": [2, 5]})
    views = spec.build(images, Draws(0, 0, torch.arange(2000)))
    values = torch.tensor([len(view.unique()) for view in views])
    counts = torch.stack([(values == 2**bits).sum() for bits in (2, 3, 4, 5)])
    # Four standard deviations of a binomial of 2000 and 1/4.
    assert counts.sum() == 2000
    assert (counts - 500).abs().max() < 78


def test_solarize_draws_its_threshold() -> None:
    images = torch.linspace(0, 0.49, 200).view(1, 1, 10, 20).expand(500, 3, -1, -1)
    spec = AUGMENTS.spec({"name": "solarize", "threshold": [0.1, 0.4]})
    views = spec.build(images, Draws(0, 0, torch.arange(500)))
    lowest = torch.where(views == images, 1.0, images).amin((1, 2, 3))
    assert 0.1 <= lowest.min() < 0.11
    assert 0.39 < lowest.max() <= 0.41
    assert abs(lowest.mean() - 0.25) < 0.02


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("posterize", {"bits": [5, 2]}),
        ("posterize", {"bits": [4, 9]}),
        ("solarize", {"threshold": [0.5, 0.2]}),
        ("rotate", {"degrees": -3}),
        ("shear_x", {"interpolation": "cubic"}),
        ("brightness", {"strength": -0.1}),
        ("rand_augment", {"magnitude": 31}),
        ("rand_augment", {"num_operations": 0}),
    ],
)
def test_options_out_of_range_are_refused(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as raised:
        AUGMENTS.spec({"name": name, **options})
    assert raised.value.path[0] == next(iter(options))
