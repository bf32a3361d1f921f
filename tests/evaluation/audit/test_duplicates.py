import io

import numpy as np
import pytest
import scipy.ndimage
import scipy.signal
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cifarlab.config import DataConfig
from cifarlab.data.splits import digest_pictures
from cifarlab.evaluation.audit import duplicates
from cifarlab.evaluation.audit.audit import audit, is_among, whole
from tests.evaluation.audit.conftest import noise, pictures

pytestmark = pytest.mark.quick


def jpeg(picture, quality):
    buffer = io.BytesIO()
    Image.fromarray(picture.transpose(1, 2, 0)).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer)).transpose(2, 0, 1)


def shifted(wide, down, right):
    """A 32 x 32 window of a picture with a margin of 4."""
    return wide[:, 4 + down : 36 + down, 4 + right : 36 + right]


def config(name):
    return DataConfig.model_validate({"dataset": {"name": name}})


def test_planted_duplicates_are_found_and_nothing_else(planted):
    wide = noise(60, 0, side=40)
    images = np.ascontiguousarray(wide[:, :, 4:36, 4:36])
    train, test = images[:40].copy(), images[40:].copy()
    train[1] = train[0]  # Twice in train, with another label.
    train[2] = train[0]  # Three times.
    test[0] = train[3]
    test[1] = train[3]
    test[2] = jpeg(train[4], 60)
    test[3] = train[5][:, :, ::-1]
    test[4] = shifted(wide[6], 1, -1)
    test[5] = np.clip(train[7].mean(0, keepdims=True) * 0.7 + 30, 0, 255).repeat(3, 0)  # Gray, and dimmer.
    test[6] = shifted(wide[8][:, :, ::-1], -1, 1)
    train[10] = np.clip(train[9].astype(int) + np.random.default_rng(0).integers(-6, 7, (3, 32, 32)), 0, 255)
    parts = {"train": pictures(train, np.arange(40) % 4), "test": pictures(test, np.arange(20) % 4)}
    name = planted(**parts)
    found = audit(config(name))
    report = found.report
    # train[3] has label 3; so has neither test[0] nor test[1].
    assert report.exact.counts() == {
        "duplicates_in_train": 2, "duplicates_in_test": 1, "test_in_train": 2, "test_in_train_same_label": 0
    }  # fmt: skip
    assert report.near.counts() == {
        "near_duplicates_in_train": 2, "near_test_in_train": 5, "near_duplicates_in_test": 0
    }  # fmt: skip

    def numbers(kind):
        orders = {part: p.order() for part, p in parts.items()}
        return {
            tuple((part, int(orders[part][index])) for part, index in row.pictures)
            for row in report.pairs if row.kind == kind
        }  # fmt: skip

    across = {(("test", i), ("train", j)) for i, j in ((2, 4), (3, 5), (4, 6), (5, 7), (6, 8))}
    assert {tuple(sorted(pair)) for pair in numbers("near")} == across | {(("train", 9), ("train", 10))}
    exact = {tuple(sorted(pair)) for pair in numbers("exact")}
    assert {(("test", 0), ("train", 3)), (("test", 1), ("train", 3)), (("test", 0), ("test", 1))} <= exact
    assert len(exact) == 5  # Three copies are two pairs.
    for row in report.pairs:
        (part, index), _ = row.pictures
        label = parts[part].labels[parts[part].order()[index]]
        assert row.labels[0] == f"class_{label}"
        if row.kind == "exact":
            assert np.array_equal(found.picture(*row.pictures[0]), found.picture(*row.pictures[1]))


def test_a_validation_part_is_audited_too(planted):
    images = noise(30, 1)
    images[20:22] = images[:2]
    images[29] = images[20]
    name = planted(
        train=pictures(images[:20], np.arange(20) % 4),
        val=pictures(images[20:25], np.arange(5) % 4),
        test=pictures(images[25:], np.arange(5) % 4),
    )
    report = audit(config(name), near=False).report
    shared = {parts: found.pictures for parts, found in report.exact.shared.items()}
    assert shared == {("val", "train"): 2, ("test", "train"): 1, ("test", "val"): 1}
    assert report.near is None
    assert not any("near" in key for key in report.to_json())


def test_which_pictures_are_among_others():
    images = noise(30, 7)
    images[9] = 50  # Nothing to correlate: known by its bytes.
    ours = np.stack([images[3][:, :, ::-1], images[25], images[9], jpeg(images[4], 60), images[26]])
    found = is_among(whole(pictures(ours, np.arange(5) % 4)), whole(pictures(images[:20], np.arange(20) % 4)))
    order = pictures(ours, np.arange(5) % 4).order()
    assert found[np.argsort(order)].tolist() == [True, False, True, True, False]


def test_horizons_are_not_near_duplicates():
    """Pictures whose broad light is the same, and whose detail is not."""
    sky = np.linspace(200, 60, 32)[None, None, :, None] * np.ones((40, 3, 1, 32))
    images = np.clip(sky + np.random.default_rng(0).normal(0, 4, sky.shape), 0, 255).astype(np.uint8)
    pixels = images.reshape(40, -1).astype(float)
    assert np.corrcoef(pixels)[0, 1] > 0.95
    everyone = torch.combinations(torch.arange(40))
    pairs, _ = duplicates.near_pairs(duplicates.details(images), None, everyone)
    assert len(pairs) == 0


def test_flat_pictures_have_no_detail_to_compare():
    images = np.full((3, 3, 32, 32), 7, np.uint8) + np.arange(3, dtype=np.uint8)[:, None, None, None]
    assert not duplicates.details(images).any()
    pairs, _ = duplicates.near_pairs(duplicates.details(images), None, torch.tensor([[0, 1], [1, 2]]))
    assert len(pairs) == len(duplicates.alike(duplicates.descriptors(images), None)) == 0


def test_details_are_those_of_scipy():
    images = noise(3, 5)
    gray = images.mean(1)
    inside = np.s_[:, 3:-3, 3:-3]  # At the border the mean is of fewer pixels.
    expected = gray - scipy.ndimage.uniform_filter(gray, (0, 7, 7))
    np.testing.assert_allclose(duplicates.details(images)[:, 0].numpy()[inside], expected[inside], atol=1e-3)


def test_larger_pictures_are_compared_at_32_pixels():
    images = noise(2, 6, side=64)
    assert duplicates.details(images).shape == (2, 1, 32, 32)
    small = images.astype(np.float32).mean(1).reshape(2, 32, 2, 32, 2).mean((2, 4))
    expected = duplicates._without_mean(torch.from_numpy(small)[:, None], 7)
    torch.testing.assert_close(duplicates.details(images), expected, atol=1e-3, rtol=0)


@given(st.integers(-2, 2), st.integers(-2, 2), st.booleans(), st.integers(0, 100))
def test_correlation_is_pearsons_of_the_overlap(down, right, flipped, seed):
    field = torch.from_numpy(np.random.default_rng(seed).normal(size=(1, 1, 40, 40)).astype(np.float32))
    ours = field[..., 4:36, 4:36]
    theirs = field[..., 4 + down : 36 + down, 4 + right : 36 + right]
    theirs = theirs + 0.5 * torch.from_numpy(
        np.random.default_rng(seed + 1).normal(size=(1, 1, 32, 32)).astype(np.float32)
    )
    value = duplicates.correlations(ours, theirs.flip(-1) if flipped else theirs)
    a = ours[0, 0, max(down, 0) : 32 + min(down, 0), max(right, 0) : 32 + min(right, 0)]
    b = theirs[0, 0, max(-down, 0) : 32 + min(-down, 0), max(-right, 0) : 32 + min(-right, 0)]
    expected = np.corrcoef(a.numpy().ravel(), b.numpy().ravel())[0, 1]
    assert value.item() == pytest.approx(expected, abs=1e-4)


def test_blocks_change_nothing(monkeypatch):
    wide = noise(50, 2)
    wide[45] = wide[3][:, :, ::-1]
    codes = duplicates.descriptors(wide)
    flipped = duplicates.descriptors(wide[..., ::-1].copy())
    both = torch.maximum(codes.flatten(1) @ codes.flatten(1).T, codes.flatten(1) @ flipped.flatten(1).T)
    expected = {tuple(pair) for pair in (both.triu(1) > 0.3).nonzero().tolist()}
    assert (3, 45) in expected
    assert len(expected) > 10
    for rows in (7, 1000):
        monkeypatch.setattr(duplicates, "ROWS", rows)
        assert {tuple(pair) for pair in duplicates.alike(codes, None, least=0.3).tolist()} == expected
        across = {tuple(pair) for pair in duplicates.alike(codes[:20], codes, least=0.3).tolist()}
        assert {pair for pair in across if pair[0] < pair[1]} == {p for p in expected if p[0] < 20}


def test_nearest_embeddings():
    points = torch.nn.functional.normalize(torch.randn(40, 6, generator=torch.Generator().manual_seed(0)))
    pairs = {tuple(p) for p in duplicates.nearest_neighbours(3 * points, None, count=2).tolist()}
    same = (points @ points.T).fill_diagonal_(-1)
    expected = {tuple(sorted((i, j))) for i in range(40) for j in same[i].topk(2).indices.tolist()}
    assert pairs == expected
    assert len(duplicates.nearest_neighbours(points[:3], points, count=2)) == 6


LABELS = st.lists(st.integers(0, 6), min_size=1, max_size=30)


@given(LABELS, LABELS)
def test_exact_pairs_are_those_of_a_plain_search(ours, theirs):
    def digests(values):
        return digest_pictures(np.array(values, np.uint8).reshape(-1, 1, 1, 1))

    a, b = digests(ours), digests(theirs)
    assert duplicates.surplus(a) == len(ours) - len(set(ours))
    expected = {(ours.index(v), i) for i, v in enumerate(ours) if ours.index(v) != i}
    assert {tuple(p) for p in duplicates.exact_pairs(a).tolist()} == expected
    across = {(i, j) for i, v in enumerate(ours) for j, w in enumerate(theirs) if v == w}
    assert {tuple(p) for p in duplicates.exact_pairs_across(a, b).tolist()} == across
