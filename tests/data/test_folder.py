from __future__ import annotations

import hashlib
import io
import json
import multiprocessing
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from cifarlab.core.errors import ConfigError
from cifarlab.data import folder as module
from cifarlab.data.cache import cache_folder
from cifarlab.data.decoding import decode, suffixes
from cifarlab.data.folder import read_folder
from cifarlab.data.splits import Pictures, digest_pictures


@pytest.fixture(autouse=True)
def _cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CIFARLAB_CACHE", str(tmp_path / "cache"))


def make(
    root: Path,
    parts: tuple[str, ...] = ("train", "val"),
    classes: tuple[str, ...] = ("cat", "dog"),
    each: int = 3,
) -> Path:
    rng = np.random.default_rng(0)
    for part in parts:
        for name in classes:
            (root / part / name).mkdir(parents=True)
            for i in range(each):
                height, width = rng.integers(20, 60, 2)
                picture = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
                picture.save(root / part / name / f"{i}.png")
    return root


def read(root: Path, part: Any = "train", size: int = 16, **options: Any) -> Pictures:
    pictures = read_folder(str(root), part, size, **options)
    assert pictures is not None
    return pictures


def test_reads(tmp_path: Path) -> None:
    root = make(tmp_path / "root")
    for _ in range(2):
        train = read(root)
        assert train.images.shape == (6, 3, 16, 16)
        assert train.images.dtype == np.uint8
        assert train.classes == ("cat", "dog")
        assert train.labels.tolist() == [0, 0, 0, 1, 1, 1]
        assert (train.digests == digest_pictures(train.images)).all()
        assert train.digests.shape == (6,)
        assert train.notes == train.warnings == ()
        assert (train.images[4] == decode(root / "train" / "dog" / "1.png", 16)).all()
        torch.from_numpy(train.images)
        assert len(train.fingerprint()) == 32


def test_parts(tmp_path: Path) -> None:
    root = make(tmp_path / "root", ("train",))
    assert read_folder(str(root), "val", 16) is None
    assert read_folder(str(root), "test", 16) is None
    make(root, ("val",), each=2)
    assert read_folder(str(root), "val", 16) is None
    assert len(read(root, "test").labels) == 4
    make(root, ("test",), each=1)
    assert len(read(root, "val").labels) == 4
    assert len(read(root, "test").labels) == 2


def test_hidden_and_other_files_are_passed_over(tmp_path: Path) -> None:
    root = make(tmp_path / "root")
    cat = root / "train" / "cat"
    (cat / ".hidden.png").write_bytes(b"no")
    (cat / "notes.txt").write_bytes(b"no")
    (cat / "vector.eps").write_bytes(b"no")
    (root / "train" / ".cache").mkdir()
    (root / "train" / "labels.csv").write_bytes(b"no")
    (cat / "images").mkdir()
    Image.new("RGB", (20, 20)).save(cat / "images" / "deep.JPEG")
    (cat / "images" / "loop").symlink_to(cat)
    os.mkfifo(cat / "pipe.png")
    assert len(read(root).labels) == 7
    assert ".jpg" in suffixes()
    assert ".webp" in suffixes()
    assert not {".eps", ".pdf", ".mpg", ".h5"} & suffixes()


@pytest.mark.parametrize(("spoil", "message"), [
    (lambda root: (root / "train").rename(root / "training"), "no train/ folder"),
    (lambda root: (root / "val" / "cat").rename(root / "val" / "cow"), "of val/ are not in train/: cow"),
    (lambda root: (root / "train" / "ant").mkdir(), "classes of train/ are not in val/: ant"),
    (lambda root: [(root / part / "ant").mkdir() for part in ("train", "val")], "ant holds no pictures"),
    (lambda root: (root / "test").mkdir(), "test/ must hold a folder for each class"),
])  # fmt: skip
def test_folders_of_another_form(tmp_path: Path, spoil: Any, message: str) -> None:
    root = make(tmp_path / "root")
    spoil(root)
    with pytest.raises(ConfigError, match=message) as raised:
        read(root)
    assert raised.value.path == ("data", "root")


def test_root_is_required(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for root in (None, str(tmp_path / "none"), str(tmp_path / "file")):
        with pytest.raises(ConfigError) as raised:
            read_folder(root, "train", 16)
        assert raised.value.path == ("data", "root")
    (tmp_path / "empty" / "train").mkdir(parents=True)
    with pytest.raises(ConfigError, match="no class folders"):
        read(tmp_path / "empty")


def broken_files(folder: Path) -> int:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(
        buffer, "JPEG"
    )
    (folder / "truncated.jpg").write_bytes(buffer.getvalue()[:2000])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.gif").write_bytes(b"hello")
    (folder / "dangling.png").symlink_to(folder / "nowhere")
    # A bomb: 30,000 x 30,000 pixels of one bit in a few bytes.
    (folder / "bomb.pbm").write_bytes(b"P4 30000 30000\n")
    return 5


def test_broken_files(tmp_path: Path) -> None:
    root = make(tmp_path / "root")
    whole = read(root)
    count = broken_files(root / "train" / "cat")
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"bomb\.pbm.* pixels.*4 more.*data\.skip_broken=true"):
            read(root)
        skipped = read(root, skip_broken=True)
        assert skipped.fingerprint() == whole.fingerprint()
        assert skipped.labels.tolist() == whole.labels.tolist()
        assert (skipped.images == whole.images).all()
        assert f"{count} of 11 files" in skipped.notes[0]

    Image.new("RGB", (20, 20)).save(root / "train" / "nowhere.png")
    (root / "train" / "cat" / "dangling.png").unlink()
    (root / "train" / "cat" / "dangling.png").symlink_to(root / "train" / "nowhere.png")
    assert len(read(root, skip_broken=True).labels) == 7


def test_none_can_be_read(tmp_path: Path) -> None:
    root = make(tmp_path / "root", ("train",), ("cat",), 0)
    broken_files(root / "train" / "cat")
    with pytest.raises(ConfigError, match="none of 5 files"):
        read(root, skip_broken=True)
    assert not [path for path in cache_folder("folders").iterdir() if path.is_dir()]


def test_a_file_that_became_readable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make(tmp_path / "root")
    real = module.decode_or_raise

    def denied(picture: Any, size: int) -> np.ndarray:
        if str(picture).endswith("dog/1.png"):
            raise PermissionError(13, "Permission denied")
        return real(picture, size)

    with monkeypatch.context() as patch:
        patch.setattr(module, "decode_or_raise", denied)
        assert len(read(root, skip_broken=True).labels) == 5
        with pytest.raises(ConfigError, match=r"dog/1.png: Permission denied; repair"):
            read(root)
    assert len(read(root).labels) == 6


def test_the_cache_is_used_and_never_misused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make(tmp_path / "root")
    built: list[int] = []
    real = module._build

    def build(folder: Path, listing: Any, size: int) -> None:
        built.append(len(listing.files))
        real(folder, listing, size)

    monkeypatch.setattr(module, "_build", build)
    first = read(root)
    assert (read(root).images == first.images).all()
    assert built == [6]
    read(root, size=24)
    read(root, "test")
    assert built == [6, 6, 6]
    for part, size in (("train", 16), ("train", 24), ("test", 16)):
        read(root, part, size)
    assert len(built) == 3, "each part and size has its own"

    picture = root / "train" / "cat" / "0.png"
    status = picture.stat()
    os.utime(picture, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    read(root)
    assert len(built) == 4, "a changed time"
    picture.rename(picture.with_name("9.png"))
    assert read(root).fingerprint() == first.fingerprint(), "a changed name"
    assert len(built) == 5, "a changed name"
    (root / "train" / "cat" / "1.png").unlink()
    assert len(read(root).labels) == 5, "a file less"
    assert len(built) == 6, "a file less"
    assert (first.images == first.images).all(), "what was open stays as it was"
    assert first.images[0].any(), "what was open stays as it was"

    (target,) = (path for path in cache_folder("folders").glob("*-train-16-*") if path.is_dir())
    for name in ("images.npy", "labels.npy", "digests.npy", "meta.json"):
        for left in (None, b"", (target / name).read_bytes()[:-30]):
            (target / name).unlink()
            if left is not None:
                (target / name).write_bytes(left)
            count = len(built)
            assert len(read(root).labels) == 5
            assert len(built) == count + 1
    meta = json.loads((target / "meta.json").read_text())
    (target / "meta.json").write_text(json.dumps(meta | {"version": 0}))
    count = len(built)
    read(root)
    assert len(built) == count + 1, "made by older code"

    (target.parent / f".{target.name}.1.tmp").mkdir()
    (target / "meta.json").unlink()
    read(root)
    assert not list(target.parent.glob(".*.tmp")), "what a killed process left is removed"


def test_a_failed_build_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make(tmp_path / "root")

    class Disk:
        free = 1000

    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: Disk)
    with pytest.raises(ConfigError, match=r"6 pictures need .* CIFARLAB_CACHE"):
        read(root)
    assert [path.suffix for path in cache_folder("folders").iterdir()] == [".lock"]


def _read(root: Path) -> str:
    return read(root).fingerprint()


def test_processes_at_once(tmp_path: Path) -> None:
    root = make(tmp_path / "root", each=20)
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        found = pool.map(_read, [root] * 4)
    assert set(found) == {read(root).fingerprint()}


def test_digest_is_of_name_size_and_time(tmp_path: Path) -> None:
    root = make(tmp_path / "root", ("train",))
    listing = module.list_pictures(root / "train", ("cat", "dog"))
    assert listing.files[0] == "cat/0.png"
    assert len(listing.digest) == 2 * hashlib.blake2b(digest_size=16).digest_size
