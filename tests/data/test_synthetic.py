"""Tests of the embedded synthetic data set."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cifarlab.data import synthetic, synthetic_shapes
from cifarlab.data.synthetic import CLASSES, SUPERCLASS_OF, SUPERCLASSES, draw


def test_names() -> None:
    assert len(set(CLASSES)) == len(CLASSES) == len(SUPERCLASS_OF) == 100
    assert len(set(SUPERCLASSES)) == len(SUPERCLASSES) == 20
    assert np.bincount(SUPERCLASS_OF).tolist() == [5] * 20
    assert all(name.endswith(SUPERCLASSES[s]) for name, s in zip(CLASSES, SUPERCLASS_OF, strict=True))


def test_colour_and_texture_are_balanced_and_neither_names_the_class_alone() -> None:
    looks = [name.split() for name in CLASSES]
    for words in list(zip(*looks, strict=True))[:2]:
        assert sorted(words.count(word) for word in set(words)) == [20] * 5
    for s in range(len(SUPERCLASSES)):
        members = [look for look, owner in zip(looks, SUPERCLASS_OF, strict=True) if owner == s]
        assert len({colour for colour, _, _ in members}) == len({texture for _, texture, _ in members}) == 3


@pytest.mark.parametrize("num", [0, 1, 99, 250])
@pytest.mark.parametrize("size", [8, 33])
def test_shapes_types_and_balance(num: int, size: int) -> None:
    images, labels = draw(num, size=size)
    assert images.shape == (num, 3, size, size)
    assert images.dtype == np.uint8
    assert labels.shape == (num,)
    assert labels.dtype == np.int64
    assert np.ptp(np.bincount(labels, minlength=100)) <= 1


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 130), st.integers(0, 130), st.integers(0, 2**70), st.sampled_from(["train", "test"]))
def test_a_shorter_draw_is_the_start_of_a_longer_one(one: int, other: int, seed: int, split: str) -> None:
    short, long = sorted((one, other))
    images, labels = draw(long, size=8, seed=seed, split=split)
    first_images, first_labels = draw(short, size=8, seed=seed, split=split)
    assert np.array_equal(first_images, images[:short])
    assert np.array_equal(first_labels, labels[:short])


def test_stacking_does_not_change_a_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    images, _ = draw(400, size=16)
    monkeypatch.setattr(synthetic, "_PIXELS_AT_ONCE", 1)
    assert np.array_equal(draw(400, size=16)[0], images)


def test_seeds_splits_and_indices_give_other_pictures() -> None:
    draws = [
        draw(200, size=16, seed=seed, split=split)[0] for seed in (0, 1, 2**32) for split in ("train", "test")
    ]
    pictures = np.concatenate(draws).reshape(6 * 200, -1)
    assert len(np.unique(pictures, axis=0)) == len(pictures)


def test_golden_pictures() -> None:
    digests = [
        hashlib.sha256(draw(100, size=size, seed=7, split=split)[0].tobytes()).hexdigest()[:16]
        for size, split in ((32, "train"), (17, "test"))
    ]
    assert digests == ["9f32cf3aa1ff27ef", "5260c47da3198894"]


def test_no_shape_is_another_or_its_mirror_image() -> None:
    at = np.linspace(-1.3, 1.3, 64, dtype=np.float32)
    x, y = np.meshgrid(at, -at)
    masks = np.stack([synthetic_shapes.shape_distance(shape, x, y) < 0 for shape in SUPERCLASSES])
    assert (masks.mean((1, 2)) > 0.1).all()
    for others in (masks, masks[..., ::-1]):
        shared = (masks[:, None] & others).sum((2, 3)) / (masks[:, None] | others).sum((2, 3))
        assert shared[~np.eye(len(masks), dtype=bool)].max() < 0.95


def test_every_texture_shows() -> None:
    uniforms = np.random.default_rng(0).random((20, synthetic._NUM_UNIFORMS), dtype=np.float32)
    for s in range(len(SUPERCLASSES)):
        scenes = [synthetic._paint(label, uniforms, 32) for label in range(100) if SUPERCLASS_OF[label] == s]
        for i, scene in enumerate(scenes):
            for other in scenes[:i]:
                assert np.abs(scene - other).mean() > 0.005


def test_class_means_of_one_split_recognise_the_other() -> None:
    images, labels = draw(2000, size=8)
    means = np.stack([images[labels == label].mean(0) for label in range(100)])
    images, labels = draw(500, size=8, split="test")
    distances = ((images[:, None].astype(np.float32) - means.astype(np.float32)) ** 2).mean((2, 3, 4))
    assert (distances.argmin(1) == labels).mean() > 0.03


def test_a_larger_size_shows_the_same_scenes() -> None:
    small = draw(100, size=32)[0].astype(np.float32)
    large = draw(100, size=64)[0].astype(np.float32).reshape(100, 3, 32, 2, 32, 2).mean((3, 5))
    same = np.abs(small - large).mean((1, 2, 3))
    other = np.abs(small - np.roll(large, 1, 0)).mean((1, 2, 3))
    assert same.max() * 2 < other.min()


@pytest.mark.parametrize("options", [{"split": "tset"}, {"seed": -1}, {"size": 7}, {"num": -1}])
def test_wrong_arguments(options: dict) -> None:
    with pytest.raises(ValueError, match=str(next(iter(options.values())))):
        draw(**{"num": 1, **options})
