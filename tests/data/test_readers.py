from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cifarlab.config import DataConfig
from cifarlab.core.errors import ConfigError
from cifarlab.core.registries import DATASETS
from cifarlab.data import readers, synthetic
from cifarlab.data.cache import building, cache_folder, locked, progress
from cifarlab.data.splits import Pictures, read_data


@pytest.fixture(autouse=True)
def _cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CIFARLAB_CACHE", str(tmp_path / "cache"))


def config(dataset: Any, **options: Any) -> DataConfig:
    return DataConfig(dataset=DATASETS.spec(dataset), **options)


def test_registered() -> None:
    assert {"cifar100", "cifar10", "folder", "synthetic"} <= set(DATASETS)
    assert DATASETS["synthetic"].options == {"train": 10_000, "test": 2_000, "seed": 0}
    assert all(DATASETS[name].doc for name in DATASETS)


def test_synthetic() -> None:
    data = config({"name": "synthetic", "train": 200, "test": 100})
    train, test = (read_data(data, part) for part in ("train", "test"))
    assert train
    assert test
    assert read_data(data, "val") is None
    images, labels = synthetic.draw(200)
    assert (train.images == images).all()
    assert (train.labels == labels).all()
    assert (test.images == synthetic.draw(100, split="test")[0]).all()
    assert len(train.classes) == 100
    assert len(train.superclasses) == 20
    assert len(train.superclass_of) == 100
    assert not cache_folder("synthetic").exists(), "a few are drawn again each time"
    other = read_data(config({"name": "synthetic", "train": 200, "test": 100, "seed": 1}), "train")
    assert other
    assert not (other.images == train.images).all()
    large = read_data(config("synthetic", image_size=32, store_size=64).model_copy(
        update={"dataset": DATASETS.spec({"name": "synthetic", "train": 10})}), "train")  # fmt: skip
    assert large
    assert large.images.shape == (10, 3, 64, 64)
    with pytest.raises(ConfigError):
        config({"name": "synthetic", "train": 0})


def test_many_are_drawn_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "DRAW_ANEW_BYTES", 0)
    data = config({"name": "synthetic", "train": 120})
    drawn = read_data(data, "train")
    with monkeypatch.context() as patch:
        patch.setattr(readers.drawing, "draw", None)
        cached = read_data(data, "train")
    assert drawn
    assert cached
    assert (drawn.images == cached.images).all()
    assert cached.fingerprint() == drawn.fingerprint()
    (target,) = [path for path in cache_folder("synthetic").iterdir() if path.is_dir()]
    for spoil in (b"", (target / "images.npy").read_bytes()[:-5]):
        (target / "images.npy").write_bytes(spoil)
        again = read_data(data, "train")
        assert again
        assert again.fingerprint() == cached.fingerprint()


def test_folder_at_store_size_or_the_largest_that_is_seen(tmp_path: Path) -> None:
    for part in ("train", "val"):
        (tmp_path / part / "a").mkdir(parents=True)
        Image.new("RGB", (50, 50)).save(tmp_path / part / "a" / "x.png")
    root = str(tmp_path)
    sizes = [(config("folder", root=root), 32), (config("folder", root=root, image_size=24), 24),
             (config("folder", root=root, image_size=24, store_size=40), 40),
             (config("folder", root=root, image_size=24, multi_scale={"sizes": [16, 40]}), 40)]  # fmt: skip
    for data, size in sizes:
        pictures = read_data(data, "test")
        assert pictures
        assert pictures.images.shape == (1, 3, size, size)
    (tmp_path / "train" / "a" / "y.png").write_bytes(b"no")
    with pytest.raises(ConfigError, match=r"y\.png"):
        read_data(sizes[0][0], "train")
    skipped = read_data(config("folder", root=root, skip_broken=True), "train")
    assert skipped
    assert len(skipped.labels) == 1
    assert skipped.notes
    with pytest.raises(ConfigError, match=r"data\.root: missing"):
        read_data(config("folder"), "train")


def test_cifar100(cifar100_root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIFARLAB_DATA", str(cifar100_root))
    test: Pictures | None = read_data(config("cifar100"), "test")
    assert test
    assert test.warnings == ()
    assert len(test.labels) == 10_000
    small = read_data(config("cifar100", store_size=16), "test")
    assert small
    assert small.images.shape == (10_000, 3, 16, 16)
    assert small.fingerprint() == test.fingerprint()


def test_cifar10_is_looked_for(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(b"")
    with pytest.raises(ConfigError, match="lacks data_batch_1"):
        read_data(config("cifar10", root=str(tmp_path)), "train")


def test_building(tmp_path: Path) -> None:
    target = tmp_path / "a[1]" / "b"
    with locked(target):
        for content in ("old", "new"):
            with building(target) as fresh:
                (fresh / "x").write_text(content)
            assert (target / "x").read_text() == content
        with pytest.raises(KeyError), building(target) as fresh:
            raise KeyError
    assert (target / "x").read_text() == "new"
    assert sorted(path.name for path in target.parent.iterdir()) == [".b.lock", "b"]


@pytest.mark.parametrize("terminal", [False, True])
def test_progress(
    terminal: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if terminal:
        monkeypatch.setenv("FORCE_COLOR", "1")
        monkeypatch.setenv("TERM", "xterm")
    for size in (False, True):
        with progress("fetching [a]", size=size) as report:
            report(5, 10)
            report(7, None)
    assert "fetching [a]" in capsys.readouterr().err


def test_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CIFARLAB_CACHE")
    assert cache_folder("data").parent.name == "cifarlab"
    assert np.array_equal([cache_folder("x").name], ["x"])
