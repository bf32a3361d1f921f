from __future__ import annotations

import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cifarlab.core.errors import ConfigError
from cifarlab.data import cifar
from cifarlab.data.cifar import read_cifar10, read_cifar100, resize_pictures
from cifarlab.data.pickles import read_pickle

pytestmark = pytest.mark.quick


def dump2(content: Any) -> bytes:
    """A pickle as Python 2 wrote it: byte strings, protocol 2, numpy's globals by their old names."""
    out = bytearray(b"\x80\x02")

    def save(value: Any) -> None:
        if isinstance(value, dict):
            out.extend(b"}(")
            for key, item in value.items():
                save(key)
                save(item)
            out.extend(b"u")
        elif isinstance(value, list):
            out.extend(b"](")
            for item in value:
                save(item)
            out.extend(b"e")
        elif isinstance(value, bytes):
            out.extend(b"T" + struct.pack("<i", len(value)) + value)
        elif isinstance(value, int):
            out.extend(b"J" + struct.pack("<i", value))
        else:
            out.extend(b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R(K\x01")
            for n in value.shape:
                save(n)
            out.extend((b"\x85", b"\x86", b"\x87")[value.ndim - 1] + b"cnumpy\ndtype\nU")
            code = value.dtype.str[1:].encode()
            out.extend(
                bytes([len(code)])
                + code
                + b"K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
            )
            save(value.tobytes())
            out.extend(b"tb")

    save(content)
    return bytes(out) + b"."


def write_cifar100(root: Path, count: int = 200, **changes: Any) -> Path:
    """A small CIFAR-100 of noise; `changes` replace keys of both parts."""
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    meta = {
        b"fine_label_names": [b"f%d" % i for i in range(100)],
        b"coarse_label_names": [b"c%d" % i for i in range(20)],
    }
    (folder / "meta").write_bytes(dump2(meta))
    for seed, part in enumerate(("train", "test")):
        fine = np.arange(count) % 100
        content = {
            b"data": np.random.default_rng(seed).integers(0, 256, (count, 3072), dtype=np.uint8),
            b"fine_labels": fine.tolist(),
            b"coarse_labels": (fine // 5).tolist(),
        }
        content |= {key.encode(): value for key, value in changes.items()}
        (folder / part).write_bytes(
            dump2({key: value for key, value in content.items() if value is not None})
        )
    return folder


def test_real_cifar100(cifar100_root: Path, tmp_path: Path) -> None:
    train, test = (read_cifar100(str(cifar100_root), part) for part in ("train", "test"))
    assert train
    assert test
    assert read_cifar100(str(cifar100_root), "val") is None
    assert train.images.shape == (50_000, 3, 32, 32)
    assert test.images.shape == (10_000, 3, 32, 32)
    assert train.warnings == test.warnings == ()
    assert (np.bincount(train.labels) == 500).all()
    assert (np.bincount(test.labels) == 100).all()
    assert train.superclasses[train.superclass_of[train.classes.index("maple_tree")]] == "trees"
    assert len(np.unique(train.digests)) == 50_000 - 14
    assert np.isin(test.digests, train.digests).sum() == 10

    # Another packaging: shuffled, by a Python 3 with str keys, labels as an array, pictures in Fortran's
    # order.
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    content = read_pickle(cifar100_root / "cifar-100-python" / "test")
    order = np.random.default_rng(0).permutation(10_000)
    with (folder / "test").open("wb") as file:
        pickle.dump({"data": np.asfortranarray(content["data"][order]),
                     "fine_labels": np.array(content["fine_labels"])[order],
                     "coarse_labels": np.array(content["coarse_labels"])[order].tolist()},
                    file, protocol=4)  # fmt: skip
    for name in ("train", "meta"):
        (folder / name).symlink_to(cifar100_root / "cifar-100-python" / name)
    repacked = read_cifar100(str(folder), "test")
    assert repacked
    assert repacked.warnings == ()
    assert repacked.fingerprint() == test.fingerprint()
    assert not (repacked.labels == test.labels).all()
    rows, other = test.order(), repacked.order()
    assert (repacked.images[other] == test.images[rows]).all()
    assert (repacked.labels[other] == test.labels[rows]).all()

    # One changed pixel is another data set.
    content["data"] = content["data"].copy()
    content["data"][17, 5] ^= 1
    with (folder / "test").open("wb") as file:
        pickle.dump(content, file, protocol=4)
    altered = read_cifar100(str(folder), "test")
    assert altered
    assert "not the test part of the published CIFAR-100" in altered.warnings[0]
    assert test.fingerprint() in altered.warnings[0]
    assert altered.fingerprint() in altered.warnings[0]


def test_other_pictures_are_read_with_a_warning(tmp_path: Path) -> None:
    folder = write_cifar100(tmp_path)
    for root in (tmp_path, folder):
        train = read_cifar100(str(root), "train")
        assert train
        assert train.images.flags.writeable
        assert train.images.shape == (200, 3, 32, 32)
        assert train.classes[3] == "f3"
        assert train.superclass_of[3] == 0
        assert len(train.warnings) == 1


def test_store_size_keeps_digests(tmp_path: Path) -> None:
    write_cifar100(tmp_path)
    own, larger = (read_cifar100(str(tmp_path), "test", store_size=size) for size in (None, 48))
    assert own
    assert larger
    assert larger.images.shape == (200, 3, 48, 48)
    assert (own.digests == larger.digests).all()
    assert own.fingerprint() == larger.fingerprint()
    assert abs(resize_pictures(own.images, 16).mean() - own.images.mean()) < 1


@pytest.mark.parametrize(("changes", "message"), [
    ({"data": np.zeros((200, 3071), np.uint8)}, r"data must be \(N, 3072\) uint8, got \(200, 3071\) uint8"),
    ({"data": np.zeros((200, 3072), np.int8)}, "got .* int8"),
    ({"data": b"no array"}, "got bytes"),
    ({"data": np.zeros((0, 3072), np.uint8)}, "no pictures"),
    ({"data": None}, "has no 'data'"),
    ({"fine_labels": [0] * 199}, "200 integers"),
    ({"fine_labels": [b"0"] * 200}, "200 integers"),
    ({"fine_labels": [100] * 200}, "fine_labels holds 100, outside 0 to 99"),
    ({"fine_labels": [-1] * 200}, "holds -1"),
    ({"coarse_labels": [20] * 200}, "coarse_labels holds 20, outside 0 to 19"),
    ({"coarse_labels": [i % 20 for i in range(100)] + [0] * 100}, "exactly one superclass"),
])  # fmt: skip
def test_wrong_content_is_an_error_that_names_the_file(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    folder = write_cifar100(tmp_path, **changes)
    with pytest.raises(ConfigError, match=message) as raised:
        read_cifar100(str(tmp_path), "train")
    assert str(folder / "train") in str(raised.value)


def test_wrong_names(tmp_path: Path) -> None:
    folder = write_cifar100(tmp_path)
    (folder / "meta").write_bytes(
        dump2({b"fine_label_names": [b"a"] * 99, b"coarse_label_names": [b"c"] * 20})
    )
    with pytest.raises(ConfigError, match="list of 100 names"):
        read_cifar100(str(tmp_path), "train")


def test_cifar10(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    (folder / "batches.meta").write_bytes(
        dump2({b"label_names": [b"n%d" % i for i in range(10)], b"num_vis": 3072})
    )
    for i, name in enumerate([*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"]):
        images = np.full((20, 3072), i, np.uint8)
        (folder / name).write_bytes(dump2({b"data": images, b"labels": [n % 10 for n in range(20)]}))
    train, test = (read_cifar10(str(tmp_path), part) for part in ("train", "test"))
    assert train
    assert test
    assert read_cifar10(str(tmp_path), "val") is None
    assert train.images.shape == (100, 3, 32, 32)
    assert test.images.shape == (20, 3, 32, 32)
    assert train.images[::20, 0, 0, 0].tolist() == [0, 1, 2, 3, 4]
    assert train.classes[9] == "n9"
    assert "data_batch_1" in train.warnings[0]
    assert "test_batch" in test.warnings[0]
    monkeypatch.setattr(
        cifar, "CIFAR10_SUMS", {name: cifar.md5_of(folder / name) for name in cifar.CIFAR10_SUMS}
    )
    published = read_cifar10(str(tmp_path), "train")
    assert published
    assert published.warnings == ()


class Runs:
    """Unpickled by the usual unpickler, makes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> Any:
        import os

        return os.system, (f"touch {self.path}",)


@pytest.mark.parametrize("protocol", range(6))
def test_a_foreign_global_is_refused_and_does_not_run(tmp_path: Path, protocol: int) -> None:
    mark, path = tmp_path / "mark", tmp_path / "train"
    path.write_bytes(pickle.dumps({"data": Runs(mark)}, protocol=protocol))
    with pytest.raises(ConfigError, match=r"posix\.system") as raised:
        read_pickle(path)
    assert str(path) in str(raised.value)
    assert not mark.exists()
    assert pickle.loads(path.read_bytes())
    assert mark.exists()


RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\n"
DTYPE = b"cnumpy\ndtype\n"


@pytest.mark.parametrize(("raw", "message"), [
    (b"(S'echo'\nios\nsystem\n.", "os.system"),
    (b"cbuiltins\neval\n.", "builtins.eval"),
    (b"cnumpy\nload\n.", "numpy.load"),
    (b"cnumpy.core.multiarray\nscalar\n.", "numpy.core.multiarray.scalar"),
    (b"\x80\x04\x8c\x02os\x8c\x06system\x93.", "os.system"),
    (b"c__main__\n\x1b[31mred\n.", r"\\x1b\[31mred"),
    (b"\x80\x02}(U\x01a" + RECONSTRUCT + b"K\x05bu.", "a state for something"),  # BUILD on an admitted global
    (b"\x80\x02}(U\x01a" + b"cnumpy\nndarray\n" + b")Ru.", "a call of something"),
    (b"\x80\x02}(U\x01a" + b"cnumpy\nndarray\n" + b")\x81u.", "broken"),  # NEWOBJ
    (b"\x80\x02}(U\x01a](K\x01)Ru.", "a call of something"),  # REDUCE of a list
    (b"\x80\x02}(U\x01a" + DTYPE + b"U\x01OK\x00K\x01\x87Ru.", "an array of 'O'"),
    (b"\x80\x02}(U\x01a" + DTYPE + b"U\x03V99K\x00K\x01\x87Ru.", "not of integers"),
    (b"\x80\x02}(U\x01a" + RECONSTRUCT + b"cnumpy\nndarray\nJ\xff\xff\xff\x7f\x85U\x01b\x87Ru.", "without"),
    (b"\x80\x02}(N" + b"K\x01u.", "other than strings"),
    (b"\x80\x02]K\x01K\x02s.", "other than strings"),  # SETITEM on a list
    (b"\x80\x02}r\xff\xff\xff\xff.", None),  # a memo index that costs the C unpickler 64 GB
    (b"\x80\x02T\xff\xff\xff\x7fabc.", "broken|truncated|damaged"),
    (b"\x80\x02](K\x01e.", "no dict"),
    (b"\x80\x02Pabc\n.", "broken"),
    (b"}(" + b")" + b"\x85" * 300_000 + b"K\x01u.", "other than strings"),
    (b"", "damaged"),
])  # fmt: skip
def test_hostile_pickles(tmp_path: Path, raw: bytes, message: str | None) -> None:
    path = tmp_path / "train"
    path.write_bytes(raw)
    if message is None:
        assert read_pickle(path) == {}
        return
    with pytest.raises(ConfigError, match=message) as raised:
        read_pickle(path)
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)
    assert "\x1b" not in str(raised.value)


@pytest.mark.parametrize("shape", [(2**62, 2**62), (-1, 3), (1, 1, 1), (5,)])
def test_array_of_impossible_shape(tmp_path: Path, shape: tuple[int, ...]) -> None:
    class Array:
        def __reduce__(self) -> Any:
            call, arguments, _ = np.array([1], np.uint8).__reduce__()
            return call, arguments, (1, shape, np.dtype("u1"), False, b"1234")

    (tmp_path / "x").write_bytes(pickle.dumps({"data": Array()}, protocol=4))
    with pytest.raises(ConfigError, match=r"array|bytes for"):
        read_pickle(tmp_path / "x")


def test_too_large_a_file_and_none(tmp_path: Path) -> None:
    with (tmp_path / "train").open("wb") as file:
        file.truncate((1 << 30) + 1)
    with pytest.raises(ConfigError, match="1,073,741,825 bytes"):
        read_pickle(tmp_path / "train")
    with pytest.raises(ConfigError, match="No such file"):
        read_pickle(tmp_path / "none")


CONTENT = {
    b"data": np.arange(64, dtype=np.uint8).reshape(2, 32),
    b"fine_labels": [1, 2],
    b"names": [b"a", b"b"],
}


@given(st.lists(st.tuples(st.integers(0, len(dump2(CONTENT)) - 1), st.integers(0, 255)), max_size=4),
       st.integers(0, len(dump2(CONTENT))))  # fmt: skip
@settings(max_examples=600, deadline=None)
def test_damage_is_an_error_or_nothing(
    tmp_path_factory: pytest.TempPathFactory, flips: list[tuple[int, int]], length: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged"
    raw = bytearray(dump2(CONTENT))
    for position, byte in flips:
        raw[position] = byte
    path.write_bytes(raw[:length] if length % 3 == 0 else raw)
    try:
        assert type(read_pickle(path)) is dict
    except ConfigError as error:
        message = str(error)
    else:
        return
    assert str(path) in message
