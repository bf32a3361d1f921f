from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cifarlab.core.errors import ConfigError
from cifarlab.data import splits
from cifarlab.data.channels import channel_statistics
from cifarlab.data.splits import Pictures, digest_pictures, load_splits
from cifarlab.data.stratified import choose
from cifarlab.training.setup import prepare
from tests.tiny import tiny_config

pytestmark = pytest.mark.quick


def pictures(count=60, classes=5, seed=0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, 3, 8, 8), dtype=np.uint8)
    labels = np.arange(count) % classes
    return Pictures(images, labels, tuple("abcdefghij"[:classes]), digest_pictures(images))


@given(st.integers(0, 2**31), st.integers(1, 59), st.integers(0, 20))
@settings(max_examples=60, deadline=None)
def test_choosing_is_stratified_exact_and_keeps_groups_together(seed, count, pairs):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, 60)
    groups = np.arange(60)
    twins = rng.permutation(60)[: 2 * pairs].reshape(-1, 2)
    groups[twins[:, 1]] = groups[twins[:, 0]]
    taken = choose(labels, groups, np.arange(60), count, seed)
    for one, other in twins:
        assert taken[one] == taken[other]
    assert taken.sum() <= count
    if pairs == 0:
        assert taken.sum() == count
        exact = np.bincount(labels, minlength=4) * count / 60
        assert (np.abs(np.bincount(labels[taken], minlength=4) - exact) < 1).all()


def test_choosing_depends_on_the_seed_alone():
    labels, ids = np.arange(60) % 5, np.arange(60)
    assert (choose(labels, ids, ids, 10, 1) == choose(labels, ids, ids, 10, 1)).all()
    assert (choose(labels, ids, ids, 10, 1) != choose(labels, ids, ids, 10, 2)).any()


def test_fingerprint_and_order_ignore_the_packaging_and_nothing_else():
    one = pictures()
    rows = np.random.default_rng(1).permutation(60)
    other = replace(one, images=one.images[rows], labels=one.labels[rows], digests=one.digests[rows])
    assert one.fingerprint() == other.fingerprint()
    assert (one.images[one.order()] == other.images[other.order()]).all()
    changed = one.labels.copy()
    changed[3] = (changed[3] + 1) % 5
    assert replace(one, labels=changed).fingerprint() != one.fingerprint()
    images = one.images.copy()
    images[3, 0, 0, 0] ^= 1
    assert replace(one, images=images, digests=digest_pictures(images)).fingerprint() != one.fingerprint()


@pytest.fixture
def source(monkeypatch):
    """Data sets made of `pictures()`: {part: Pictures}."""
    parts = {"train": pictures(), "test": pictures(20, seed=1)}
    monkeypatch.setattr(splits, "read_data", lambda data, part: parts.get(part))
    return parts


def config(*overrides):
    return tiny_config(*overrides).data


def test_val_is_a_part_of_train(source):
    found = load_splits(config("data.val=10"), seed=0)
    assert len(found.train) == 50
    assert len(found.val) == 10
    assert found.test is None
    assert not set(found.train.ids.tolist()) & set(found.val.ids.tolist())
    assert (torch.bincount(found.val.labels) == 2).all()
    images, labels, ids = found.val.gather(torch.tensor([3, 1]))
    canonical = source["train"].images[source["train"].order()]
    assert (images.numpy() == canonical[ids.numpy()]).all()
    assert (labels.numpy() == source["train"].labels[source["train"].order()][ids.numpy()]).all()


def test_a_fraction_and_another_seed(source):
    one, other = (load_splits(config("data.val=0.2"), seed=seed) for seed in (0, 1))
    assert len(one.val) == len(other.val) == 12
    assert set(one.val.ids.tolist()) != set(other.val.ids.tolist())


def test_limit_and_classes(source):
    found = load_splits(config("data.val=10", "data.limit=15", "data.classes=5"), seed=0)
    assert len(found.train) == 15
    assert len(found.val) == 10
    assert (torch.bincount(found.train.labels) == 3).all()
    found = load_splits(config("data.val=4", "data.classes=2"), seed=0, with_test=True)
    assert len(found.train) == 20
    assert len(found.val) == 4
    assert len(found.test) == 8
    assert found.classes == ("a", "b")
    # Few of the pictures are in use: they were copied, and still are the right ones.
    assert len(found.train.images) == 24
    canonical = source["train"].images[source["train"].order()]
    images, _, ids = found.train.gather(torch.arange(20))
    assert (images.numpy() == canonical[ids.numpy()]).all()


def test_a_validation_part_of_its_own_is_used(source):
    source["val"] = pictures(10, seed=2)
    found = load_splits(config("data.val=30"), seed=0)
    assert len(found.train) == 60
    assert len(found.val) == 10
    assert set(found.fingerprint) == {"train", "val"}


@pytest.mark.parametrize("part", ["val", "test"])
@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ("abcd", "has 4 classes, train has 5"),
        ("abcdef", "has 6 classes, train has 5"),
        ("badce", "calls class 0 'b', train 'a'"),
    ],
)
def test_parts_of_other_classes_are_refused(source, part, classes, message):
    source[part] = replace(pictures(20, classes=4), classes=tuple(classes))
    with pytest.raises(ConfigError, match=f"data.dataset: {part} {message}; .* the same classes"):
        load_splits(config("data.val=10"), seed=0, with_test=True)


def test_what_is_trained_on_does_not_depend_on_what_is_read(source):
    for own in ({}, {"val": pictures(10, seed=2)}):
        source |= own
        one, other = (load_splits(config("data.val=10"), seed=0, with_test=test) for test in (True, False))
        assert torch.equal(one.train.ids, other.train.ids)
        assert len(one.val) == len(other.val) == 10
        assert other.test is None


def test_the_first_of_a_split(source):
    split = load_splits(config("data.val=10"), seed=0).train
    first = split.first(7)
    assert len(first) == 7
    for whole, part in zip(split.gather(torch.arange(7)), first.gather(torch.arange(7)), strict=True):
        assert torch.equal(whole, part)
    assert len(split.first(1000)) == len(split)


@pytest.mark.parametrize(("val", "count"), [(0, 0), (0.1, 6), (0.007, 0), (0.0084, 1), (20, 20)])
def test_pictures_are_held_out_as_the_section_says(source, val, count):
    data = config(f"data.val={val}")
    assert data.held_out(60) == count
    found = load_splits(data, seed=0).val
    assert (0 if found is None else len(found)) == count


def test_exact_duplicates_stay_on_one_side(source):
    images = source["train"].images.copy()
    images[30:60] = images[0:30]
    source["train"] = replace(source["train"], images=images, digests=digest_pictures(images))
    found = load_splits(config("data.val=20"), seed=0)
    held_out = {row.tobytes() for row in found.val.gather(torch.arange(len(found.val)))[0].numpy()}
    trained = {row.tobytes() for row in found.train.gather(torch.arange(len(found.train)))[0].numpy()}
    assert held_out
    assert not held_out & trained


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": np.full(60, 5)}, "labels in 5 to 5"),
        ({"labels": np.full(60, -1)}, "labels in -1"),
        ({"labels": np.zeros(59, np.int64)}, "60 pictures, 59 labels"),
        ({"images": np.zeros((60, 8, 8, 3), np.uint8)}, "must be"),
        ({"images": np.zeros((60, 3, 8, 8), np.float32)}, "must be"),
    ],
)
def test_a_reader_that_returns_nonsense_is_refused(changes, message, monkeypatch):
    from cifarlab.core.registries import DATASETS

    spec = DATASETS.spec("synthetic")
    data = config().model_copy(update={"dataset": spec})
    monkeypatch.setattr(type(spec), "build", lambda *_: replace(pictures(), **changes))
    with pytest.raises(ConfigError, match=message):
        splits.read_data(data, "train")


@pytest.mark.parametrize(
    ("found", "kind"),
    [(None, "None"), ((1, 2), "tuple")],
)
def test_a_reader_without_pictures_is_refused(found, kind, monkeypatch):
    data = config()
    monkeypatch.setattr(type(data.dataset), "build", lambda *_: found)
    with pytest.raises(ConfigError, match=f"train: the reader must return Pictures, got {kind}"):
        load_splits(data, seed=0)


def test_channel_statistics_are_numpys(source):
    found = load_splits(config("data.val=10"), seed=0)
    (mean, std), warnings = channel_statistics(found.train)
    images = found.train.gather(torch.arange(50))[0].numpy() / 255
    np.testing.assert_allclose(mean, images.mean((0, 2, 3)), rtol=1e-9)
    np.testing.assert_allclose(std, images.std((0, 2, 3)), rtol=1e-9)
    assert warnings == ()


@pytest.mark.parametrize("values", [{0: 0}, {2: 77}, {1: 255}, {0: 3, 2: 200}])
def test_a_constant_channel_is_named_and_its_pictures_stay_finite(source, values):
    images = source["train"].images.copy()
    for channel, value in values.items():
        images[:, channel] = value
    source["train"] = replace(source["train"], images=images, digests=digest_pictures(images))
    job = prepare(tiny_config("data.val=10", "model.normalize=dataset"))
    told = [line for line in job.remarks.warnings if "is constant in the training pictures" in line]
    assert [line.split()[1] for line in told] == [("red", "green", "blue")[channel] for channel in values]
    seen = job.engine.model.preprocess(job.splits.train.gather(torch.arange(50))[0])
    assert seen.isfinite().all()
    assert seen.abs().max() < 10
    assert all(seen[:, channel].abs().max() < 1e-6 for channel in values)
    assert job.engine.model(torch.zeros(2, 3, 8, 8, dtype=torch.uint8)).logits.isfinite().all()


def test_a_channel_that_hardly_varies_counts_as_constant(source):
    images = np.full((60, 3, 8, 8), 100, np.uint8)
    images[:, 1:] = source["train"].images[:, 1:]
    images[7, 0, 0, 0] = 101
    source["train"] = replace(source["train"], images=images, digests=digest_pictures(images))
    (_, std), warnings = channel_statistics(load_splits(config("data.val=0"), seed=0).train)
    assert std[0] == 1.0
    assert "red" in "".join(warnings)


def test_real_cifar100_splits(cifar100_root):
    found = load_splits(
        config("data.dataset=cifar100", f"data.root={cifar100_root}", "data.val=5000"), seed=0
    )
    assert len(found.train) == 45000
    assert len(found.val) == 5000
    assert (torch.bincount(found.val.labels) == 50).all()
    assert not found.warnings
    assert len(found.superclasses) == 20
    assert len(found.superclass_of) == 100
