"""Pipelines of albumentations: the library's views, seeded per picture, and what a wrong recipe is told."""

from __future__ import annotations

import random
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from scipy import stats
from torch import Tensor

from cifarlab import augment
from cifarlab.augment import pipelines
from cifarlab.config.recipes import import_and_validate
from cifarlab.core.errors import ConfigError
from cifarlab.core.random import Draws
from cifarlab.core.registries import AUGMENTS
from tests.tiny import tiny_config

# Imported by the part itself: otherwise it would ask the package index for a newer version.
albumentations = pipelines._library()
FLIPS = [{"HorizontalFlip": {"p": 0.5}}, {"VerticalFlip": {"p": 0.5}}]
STRONG = [
    {"HorizontalFlip": {"p": 0.5}},
    {"Affine": {"rotate": [-20, 20], "scale": [0.8, 1.2], "translate_percent": [-0.1, 0.1], "p": 0.7}},
    {"OneOf": {"transforms": [{"GaussNoise": {}}, {"ColorJitter": {}}, {"Blur": {"p": 0.3}}], "p": 0.8}},
    {"CoarseDropout": None},
]


def views(transforms: Any, images: Tensor, epoch: int = 0, first: int = 0, p: float = 1.0) -> Tensor:
    spec = AUGMENTS.spec({"name": "albumentations", "transforms": transforms, "p": p})
    return augment.apply(images, Draws(0, epoch, torch.arange(first, first + len(images))), {"any": spec})


def noise(size: int) -> Tensor:
    return torch.randint(256, (size, 3, 32, 32), generator=torch.Generator().manual_seed(0)).float() / 255


def channels_last(images: Tensor) -> np.ndarray:
    return (images * 255).round().byte().permute(0, 2, 3, 1).numpy()


def test_views_are_the_librarys(real_pictures: np.ndarray) -> None:
    images = torch.from_numpy(real_pictures[:100]).permute(0, 3, 1, 2).float() / 255
    ours = channels_last(views(STRONG, images))
    inner = [albumentations.GaussNoise(), albumentations.ColorJitter(), albumentations.Blur(p=0.3)]
    library = albumentations.Compose(
        [
            albumentations.HorizontalFlip(p=0.5),
            albumentations.Affine(rotate=(-20, 20), scale=(0.8, 1.2), translate_percent=(-0.1, 0.1), p=0.7),
            albumentations.OneOf(inner, p=0.8),
            albumentations.CoarseDropout(),
        ]
    )
    seeds = Draws(0, 0, torch.arange(100)).at("any").bits() & (2**63 - 1)
    for picture, view, seed in zip(real_pictures, ours, seeds.tolist(), strict=False):
        library.set_random_state(np.random.default_rng(seed), random.Random(seed))
        assert np.array_equal(library(image=picture)["image"], view)


def test_a_pipeline_that_does_nothing_gives_every_picture_back(real_pictures: np.ndarray) -> None:
    images = torch.from_numpy(real_pictures[:50]).permute(0, 3, 1, 2).float() / 255
    assert torch.equal(views([{"NoOp": {}}], images), images)


def test_transforms_of_one_picture_are_independent() -> None:
    """The library's `set_random_seed` gives each transform the same seed: both flips, or none."""
    images = noise(4000)
    found = views(FLIPS, images)
    kinds = [images, images.flip(-1), images.flip(-2), images.flip((-1, -2))]
    counts = [int((found == kind).flatten(1).all(1).sum()) for kind in kinds]
    assert sum(counts) == 4000
    assert stats.chisquare(counts).pvalue > 1e-3


def test_parameters_are_distributed_as_the_librarys() -> None:
    images = torch.full((1500, 3, 32, 32), 0.5)
    transforms = [{"RandomBrightnessContrast": {"p": 0.8}}, {"CoarseDropout": {"p": 0.7}}]
    library = albumentations.Compose(
        [albumentations.RandomBrightnessContrast(p=0.8), albumentations.CoarseDropout(p=0.7)], seed=0
    )
    ours = channels_last(views(transforms, images))
    theirs = np.stack([library(image=picture)["image"] for picture in channels_last(images)])
    for what in (lambda x: x.max((1, 2, 3)), lambda x: (x == 0).mean((1, 2, 3)), lambda x: x[:, 8, 8, 0]):
        result: Any = stats.ks_2samp(what(ours), what(theirs))
        assert result.pvalue > 1e-3


def test_every_transform_draws_from_its_own_seed_alone() -> None:
    """Of those that a picture alone suffices for: a second time, in the other order, in another batch."""
    images, tried, global_state = noise(6), [], np.random.get_state()[1].copy()
    with warnings.catch_warnings():
        # Some of the library's transforms advise against themselves.
        warnings.simplefilter("ignore")
        for name, kind in pipelines._kinds().items():
            if issubclass(kind, albumentations.BaseCompose):
                continue
            transforms = [{name: {"p": 1.0}}]
            try:
                found = views(transforms, images)
            except (ConfigError, ValueError, KeyError, NotImplementedError, TypeError):
                continue  # It needs an option, or more than a picture, or makes another size of it.
            singles = [views(transforms, images[i : i + 1], first=i) for i in reversed(range(6))]
            assert torch.equal(torch.cat(singles[::-1]), found), name
            assert found.min() >= 0, name
            assert found.max() <= 1, name
            tried.append(name)
    assert len(tried) > 70
    assert np.array_equal(np.random.get_state()[1], global_state)


def test_p_picks_pictures() -> None:
    images = noise(1000)
    some = views([{"InvertImg": {"p": 1.0}}], images, p=0.3)
    changed = (some != images).flatten(1).any(1)
    assert stats.binomtest(int(changed.sum()), 1000, 0.3).pvalue > 1e-3
    assert torch.equal(views(STRONG, images[:100], p=1.0)[changed[:100]], views(STRONG, images[:100], p=0.3)[
        changed[:100]
    ])  # fmt: skip
    assert torch.equal(views(STRONG, images[:3], p=1e-9), images[:3])


# Files.


def test_a_file_is_read_once_and_kept_with_the_run(tmp_path: Path) -> None:
    path = tmp_path / "pipeline.yaml"
    path.write_text(yaml.safe_dump(STRONG))
    config = tiny_config(f"data.augment.any={{name: albumentations, transforms: {path}}}")
    path.unlink()
    kept = config.dump()["data"]["augment"]["any"]["transforms"]
    assert kept == [*STRONG[:2], {"OneOf": {**STRONG[2]["OneOf"]}}, {"CoarseDropout": {}}]
    assert import_and_validate(config.dump()).identity() == config.identity()


def test_what_the_library_saved_makes_the_same_views(tmp_path: Path) -> None:
    inner = [albumentations.GaussNoise(), albumentations.ColorJitter(p=1.0)]
    pipeline = albumentations.Compose(
        [albumentations.Affine(rotate=(-9, 9)), albumentations.OneOf(inner), albumentations.CoarseDropout()],
        p=0.9,
    )
    path = tmp_path / "saved.yaml"
    albumentations.save(pipeline, str(path), data_format="yaml")
    written = [
        {"Compose": {"transforms": [
            {"Affine": {"rotate": [-9, 9]}},
            {"OneOf": {"transforms": ["GaussNoise", {"ColorJitter": {"p": 1.0}}]}},
            "CoarseDropout",
        ], "p": 0.9}},
    ]  # fmt: skip
    assert torch.equal(views(str(path), noise(60)), views(written, noise(60)))


# What is wrong is said when the recipe loads.


@pytest.mark.parametrize(
    ("transforms", "message"),
    [
        ("[{HorizontalFlp: {}}]", r"0: albumentations has no transform 'HorizontalFlp'; did you mean Horizo"),
        ("[{Lambda: {}}]", r"0: albumentations has no transform 'Lambda'"),
        ("[Blur, {Affine: {rotat: 3}}]", r"1\.Affine\.rotat: unknown; did you mean rotate\?"),
        ("[{Affine: {rotate: far}}]", r"0\.Affine\.rotate: input should be .* \(got 'far'\)"),
        ("[{MedianBlur: {blur_limit: far}}]", r"0\.MedianBlur\.blur_limit: input should be .* \(got 'far'\)"),
        ("[{RandomCrop: {width: 3}}]", r"0\.RandomCrop\.height: missing"),
        ("[{CropAndPad: {}}]", r"0\.CropAndPad: both px and percent"),
        ("[{Blur: {p: 1.5}}]", r"0\.Blur\.p: a probability must be from 0 to 1, got 1\.5"),
        ("[{OneOf: {p: often, transforms: [Blur]}}]", r"0\.OneOf\.p: a probability .* 'often'"),
        ("[{OneOf: {transfroms: [Blur]}}]", r"0\.OneOf\.transfroms: unknown; did you mean transforms\?"),
        ("[{OneOf: {}}]", r"0\.OneOf: .*missing.*'transforms'"),
        ("[{OneOf: {transforms: [{Blur: {limit: 3}}]}}]", r"0\.OneOf\.transforms\.0\.Blur\.limit: unknown"),
        ("[{OneOf: {transforms: []}}]", r"0\.OneOf\.transforms: expected a list of transforms"),
        ("[{SomeOf: {n: few, transforms: [Blur]}}]", r"0\.SomeOf: '>' not supported"),
        ("[{FDA: {}}]", r"0\.FDA: needs fda_metadata, not only pictures"),
        ("[{Blur: {}, HorizontalFlip: {}}]", r"0: expected one transform"),
        ("[{Blur: 3}]", r"0\.Blur: expected `key: value` options, got 3"),
        ("{Blur: {}}", r": expected a list of transforms"),
        ("[]", r": expected a list of transforms"),
        ("nowhere.yaml", r": cannot read /.*nowhere\.yaml: No such file"),
    ],
)  # fmt: skip
def test_a_wrong_pipeline_is_refused_where_it_is_wrong(transforms: str, message: str) -> None:
    with pytest.raises(ConfigError, match=rf"^data\.augment\.any\.transforms.*{message}") as raised:
        tiny_config(f"data.augment.any={{name: albumentations, transforms: {transforms}}}")
    assert "\n" not in str(raised.value)


def test_a_file_that_is_no_yaml_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text("- {Blur: [")
    with pytest.raises(ConfigError, match=r"broken\.yaml line 1: not YAML: ") as raised:
        tiny_config(f"data.augment.any={{name: albumentations, transforms: {path}}}")
    assert "\n" not in str(raised.value)


def test_what_to_install_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "albumentations", None)
    with pytest.raises(ConfigError, match=r"any\.transforms: .*pip install 'cifarlab\[albumentations\]'$"):
        tiny_config("data.augment.any={name: albumentations, transforms: [Blur]}")


@pytest.mark.parametrize(
    ("transform", "made"), [({"Resize": {"height": 20, "width": 20}}, r"\(20, 20, 3\) uint8"),
                            ("ToFloat", r"\(32, 32, 3\) float32"), ("ToTensorV2", r"\(3, 32, 32\) torch")],
)  # fmt: skip
def test_a_pipeline_that_makes_no_such_pictures_is_refused(transform: Any, made: str) -> None:
    with pytest.raises(ConfigError, match=rf"gives {made}.* for pictures of \(32, 32, 3\) uint8"):
        views([transform], noise(8), p=1.0)
