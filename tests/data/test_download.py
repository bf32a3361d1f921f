from __future__ import annotations

import contextlib
import hashlib
import io
import multiprocessing
import random
import re
import shutil
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from cifarlab.core.errors import ConfigError
from cifarlab.data import archives, download
from cifarlab.data.archives import Archive, unpack
from cifarlab.data.download import DataUnavailable, is_at_hand, locate

MEMBERS = ("train", "test", "meta")
FILES = {"set/train": random.Random(0).randbytes(300_000), "set/test": b"test" * 10, "set/meta": b"meta"}


def tarball(*members: tuple[str | tarfile.TarInfo, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name) if isinstance(name, str) else name
            info.size = len(content) if info.isreg() else 0
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


GOOD = tarball(("set/readme.html", b"none"), ("set/../../escaped", b"out"), ("/tmp/cifarlab-abs", b"out"),
               *FILES.items())  # fmt: skip


@dataclass
class Server:
    """A server of one file on this machine; `cuts`: after how many bytes each answer breaks off."""

    content: bytes = GOOD
    ranges: bool = True
    cuts: list[int] = field(default_factory=list)
    asked: list[str | None] = field(default_factory=list)
    url: str = ""

    def archive(self) -> Archive:
        return Archive(f"{self.url}/set.tar.gz", hashlib.md5(GOOD).hexdigest(), "set", MEMBERS)

    def handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                wanted = self.headers.get("Range")
                # The first request only asks who is there; the second may come before it is served.
                is_first = not server.asked
                server.asked.append(wanted)
                start = int(re.findall(r"\d+", wanted)[0]) if wanted and server.ranges else 0
                size = len(server.content)
                if start >= size:
                    self.send_response(416)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                self.send_response(206 if start else 200)
                if start:
                    self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
                self.send_header("Content-Length", str(size - start))
                self.end_headers()
                cut = server.cuts.pop(0) if server.cuts and not is_first else size
                with contextlib.suppress(OSError):
                    self.wfile.write(server.content[start : start + cut])

            def log_message(self, format: str, *args: Any) -> None:
                pass

        return Handler


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    monkeypatch.setenv("CIFARLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = Server()
    with ThreadingHTTPServer(("127.0.0.1", 0), server.handler()) as http:
        server.url = f"http://127.0.0.1:{http.server_address[1]}"
        thread = threading.Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        yield server
        http.shutdown()
        thread.join()


def everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.suffix != ".lock")


def check(folder: Path) -> None:
    for name in MEMBERS:
        assert (folder / name).read_bytes() == FILES[f"set/{name}"]
    assert everything(folder) == sorted(MEMBERS)


def test_fetched_once_into_the_cache(server: Server, tmp_path: Path) -> None:
    folder = locate(server.archive(), None)
    assert folder == tmp_path / "cache" / "data" / "set"
    check(folder)
    assert everything(tmp_path) == ["cache", "cache/data", "cache/data/set",
                                    *(f"cache/data/set/{name}" for name in sorted(MEMBERS))]  # fmt: skip
    asked = len(server.asked)
    assert locate(server.archive(), None) == folder
    assert len(server.asked) == asked


@pytest.mark.parametrize("place", ["mine", "mine/set", "mine/deep/er"])
def test_fetched_into_the_named_folder(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setenv("CIFARLAB_DATA", str(tmp_path / place))
    folder = locate(server.archive(), None)
    check(folder)
    assert folder == tmp_path / (place if place.endswith("set") else f"{place}/set")
    assert not (tmp_path / "cache").exists()
    assert locate(server.archive(), None) == locate(server.archive(), str(tmp_path / place)) == folder


@pytest.mark.parametrize("look", [locate, is_at_hand])
@pytest.mark.parametrize(
    ("files", "root", "said"),
    [
        ((), "nowhere", "does not exist; without data.root"),
        (("root/notes.txt",), "root", "holds no set/ and no set.tar.gz; without data.root"),
        (("root/train/cat/1.png",), "root", "holds no set/ and no set.tar.gz; for your own pictures"),
        (("root/cat/1.png", "root/dog/1.png"), "root", "set data.dataset=folder"),
        (("root/.cache/1.png",), "root", "without data.root"),
    ],
)
def test_a_root_that_does_not_hold_the_set_is_an_error(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    files: tuple[str, ...], root: str, said: str, look: Callable[[Archive, str | None], object],
) -> None:  # fmt: skip
    """Though the set lies in every other place."""
    for place in (tmp_path / "cache" / "data" / "set", tmp_path / "env" / "set"):
        place.mkdir(parents=True)
        for name in MEMBERS:
            (place / name).write_bytes(b"")
    monkeypatch.setenv("CIFARLAB_DATA", str(tmp_path / "env"))
    for name in files:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    before = everything(tmp_path)
    with pytest.raises(ConfigError) as raised:
        look(server.archive(), str(tmp_path / root))
    assert raised.value.path == ("data", "root")
    assert said in str(raised.value)
    assert str(tmp_path / root) in str(raised.value)
    assert everything(tmp_path) == before
    assert server.asked == []


def test_resumes_in_one_go_and_over_runs(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.cuts = [100_000, 50_000]
    check(locate(server.archive(), None))
    assert server.asked == [None, None, "bytes=100000-", "bytes=150000-"]

    shutil.rmtree(tmp_path / "cache")
    monkeypatch.setenv("CIFARLAB_DATA", str(tmp_path / "root"))
    server.asked.clear()
    server.cuts = [70_000, 0]
    with pytest.raises(DataUnavailable, match=r"resumes the download|IncompleteRead"):
        locate(server.archive(), None)
    assert everything(tmp_path / "root") == ["set.tar.gz.part"]
    assert (tmp_path / "root" / "set.tar.gz.part").read_bytes() == GOOD[:70_000]
    server.asked.clear()
    check(locate(server.archive(), None))
    assert server.asked == [None, "bytes=70000-"]
    assert everything(tmp_path / "root") == sorted(["set", *(f"set/{name}" for name in MEMBERS)])


def test_nothing_stays_of_an_answer_without_content(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CIFARLAB_DATA", str(tmp_path / "root"))
    server.cuts = [0]
    with pytest.raises(DataUnavailable):
        locate(server.archive(), None)
    assert everything(tmp_path / "root") == []


def test_a_server_without_ranges(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIFARLAB_DATA", str(tmp_path / "root"))
    server.ranges = False
    part = tmp_path / "root" / "set.tar.gz.part"
    part.parent.mkdir()
    part.write_bytes(GOOD[:1000])
    check(locate(server.archive(), None))
    shutil.rmtree(tmp_path / "root")
    server.cuts = [1000] * 20
    with pytest.raises(DataUnavailable):
        locate(server.archive(), None)
    assert server.cuts, "it stops when an answer brings no more than the last one"


@pytest.mark.parametrize("left", [b"x" * 5000, b"x" * (len(GOOD) + 5), b"x" * len(GOOD)])
def test_wrong_bytes_are_removed(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, left: bytes
) -> None:
    monkeypatch.setenv("CIFARLAB_DATA", str(tmp_path / "root"))
    part = tmp_path / "root" / "set.tar.gz.part"
    part.parent.mkdir()
    part.write_bytes(left)
    if len(left) < len(GOOD):
        with pytest.raises(DataUnavailable, match=r"md5 .* expected"):
            locate(server.archive(), None)
        assert everything(tmp_path / "root") == []
    check(locate(server.archive(), None))


def test_wrong_md5(server: Server, tmp_path: Path) -> None:
    server.content = b"<html>Please log in</html>"
    with pytest.raises(DataUnavailable) as raised:
        locate(server.archive(), None)
    assert hashlib.md5(server.content).hexdigest() in str(raised.value)
    assert server.archive().md5 in str(raised.value)
    assert "data.dataset=synthetic" in str(raised.value)
    assert everything(tmp_path) == ["cache", "cache/data"]


def test_a_whole_part_needs_no_network(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CIFARLAB_DATA", str(tmp_path / "root"))
    part = tmp_path / "root" / "set.tar.gz.part"
    part.parent.mkdir()
    part.write_bytes(GOOD)
    check(locate(server.archive(), None))
    assert server.asked == []
    assert not part.exists()


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://no-such-host.invalid"])
def test_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("CIFARLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    archive = Archive(f"{url}/cifar-100-python.tar.gz", "0" * 32, "cifar-100-python", MEMBERS)
    for folder in (tmp_path / "cache" / "data", tmp_path / "mine"):
        if folder.name == "mine":
            monkeypatch.setenv("CIFARLAB_DATA", str(folder))
        with pytest.raises(ConfigError) as raised:
            locate(archive, None)
        message = str(raised.value)
        assert archive.url in message
        assert str(folder) in message
        assert "data.dataset=synthetic" in message
        assert "cifar-100-python.tar.gz" in message
        assert "\n" not in message
    assert list(tmp_path.iterdir()) == []


def test_not_found_on_the_server(server: Server, tmp_path: Path) -> None:
    server.content = b""
    with pytest.raises(DataUnavailable, match="416"):
        locate(server.archive(), None)
    assert everything(tmp_path) == []


def test_looked_for_in_order(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def put(folder: Path) -> Path:
        folder.mkdir(parents=True)
        for name in MEMBERS:
            (folder / name).write_bytes(b"")
        return folder

    archive = server.archive()
    cached = put(tmp_path / "cache" / "data" / "set")
    assert locate(archive, None) == cached
    monkeypatch.setenv("CIFARLAB_DATA", str(tmp_path / "env"))
    in_env = put(tmp_path / "env" / "set")
    assert locate(archive, None) == in_env
    given = put(tmp_path / "root" / "set")
    assert locate(archive, str(tmp_path / "root")) == locate(archive, str(given)) == given
    assert locate(archive, str(put(tmp_path / "otherwise-named"))) == tmp_path / "otherwise-named"
    assert server.asked == []


def test_a_folder_that_is_not_whole(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "root" / "set"
    folder.mkdir(parents=True)
    monkeypatch.setenv("CIFARLAB_DATA", str(folder))
    assert locate(server.archive(), None) == folder, "an empty folder is filled"
    (folder / "meta").unlink()
    for root in (folder, folder.parent):
        with pytest.raises(ConfigError, match="lacks meta"):
            locate(server.archive(), str(root))


def test_a_tarball_beside(server: Server, tmp_path: Path) -> None:
    for place, root in (("a", "a"), ("b", "b/set.tar.gz")):
        (tmp_path / place).mkdir()
        (tmp_path / place / "set.tar.gz").write_bytes(GOOD)
        folder = locate(server.archive(), str(tmp_path / root))
        check(folder)
        assert folder == tmp_path / place / "set"
        assert (tmp_path / place / "set.tar.gz").exists()
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "set.tar.gz").write_bytes(GOOD[:-1])
    with pytest.raises(ConfigError) as raised:
        locate(server.archive(), str(tmp_path / "c"))
    actual = hashlib.md5(GOOD[:-1]).hexdigest()
    for word in (actual, server.archive().md5, str(tmp_path / "c" / "set.tar.gz")):
        assert word in str(raised.value)
    assert everything(tmp_path / "c") == ["set.tar.gz"]
    assert server.asked == []


def test_a_tarball_in_the_folder_of_its_name_is_found_and_other_files_there_stay(
    server: Server, tmp_path: Path
) -> None:
    folder = tmp_path / "root" / "set"
    folder.mkdir(parents=True)
    (folder / "set.tar.gz").write_bytes(GOOD)
    (folder / "notes.txt").write_text("mine")
    for root in (folder.parent, folder):
        assert is_at_hand(server.archive(), str(root))
        found = locate(server.archive(), str(root))
        check(found)
        assert found == folder / "set"
    assert (folder / "notes.txt").read_text() == "mine"
    assert server.asked == []


@pytest.mark.parametrize("is_file", [False, True])
def test_what_stands_where_the_data_belong_is_not_removed(
    server: Server, tmp_path: Path, is_file: bool
) -> None:
    (tmp_path / "set.tar.gz").write_bytes(GOOD)
    mine = tmp_path / "set" if is_file else tmp_path / "set" / "notes.txt"
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("mine")
    with pytest.raises(ConfigError, match=r"set lacks train; move it away to have it unpacked"):
        locate(server.archive(), str(tmp_path / "set.tar.gz"))
    assert mine.read_text() == "mine"
    assert server.asked == []


def test_a_tarball_where_nothing_can_be_written(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "set.tar.gz").write_bytes(GOOD)
    monkeypatch.setattr(download.os, "access", lambda path, mode: False)
    for _ in range(2):
        folder = locate(server.archive(), str(tmp_path / "a"))
        assert folder == tmp_path / "cache" / "data" / "set"
        check(folder)


def test_a_place_that_takes_no_data(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("CIFARLAB_DATA", str(tmp_path / "file" / "below"))
    with pytest.raises(ConfigError, match="cannot write"):
        locate(server.archive(), None)


def link(name: str, to: str, kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, to
    return info


@pytest.mark.parametrize("members", [
    [("set/train", b"1"), ("set/test", b"2")],
    [(link("set/train", "/etc/passwd", tarfile.SYMTYPE), b""), ("set/test", b"2"), ("set/meta", b"3")],
    [(link("set/train", "/etc/passwd", tarfile.LNKTYPE), b""), ("set/test", b"2"), ("set/meta", b"3")],
    [(link("set/train", "", tarfile.FIFOTYPE), b""), ("set/test", b"2"), ("set/meta", b"3")],
    [(link("set", "/tmp", tarfile.SYMTYPE), b""), ("other/train", b""), ("set/test", b""), ("set/meta", b"")],
    [("/set/train", b"1"), ("set/../set/train", b"1"), ("set/test", b"2"), ("set/meta", b"3")],
    [],
])  # fmt: skip
def test_tarballs_that_are_refused(tmp_path: Path, members: list[Any]) -> None:
    content = tarball(*members)
    path = tmp_path / "set.tar.gz"
    path.write_bytes(content)
    archive = Archive("http://127.0.0.1:1/set.tar.gz", hashlib.md5(content).hexdigest(), "set", MEMBERS)
    with pytest.raises(ConfigError, match="cannot be unpacked"):
        unpack(archive, path, tmp_path / "set")
    assert everything(tmp_path) == ["set.tar.gz"]


@pytest.mark.parametrize("content", [b"", b"no gzip", GOOD[:5000]])
def test_damaged_tarballs(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "set.tar.gz"
    path.write_bytes(content)
    archive = Archive("http://127.0.0.1:1/set.tar.gz", hashlib.md5(content).hexdigest(), "set", MEMBERS)
    with pytest.raises(ConfigError):
        unpack(archive, path, tmp_path / "set")
    assert everything(tmp_path) == ["set.tar.gz"]


def test_a_member_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "set.tar.gz"
    path.write_bytes(GOOD)
    archive = Archive("http://127.0.0.1:1/set.tar.gz", hashlib.md5(GOOD).hexdigest(), "set", MEMBERS)
    for name in ("MAX_MEMBER_BYTES", "MAX_ARCHIVE_BYTES"):
        with monkeypatch.context() as patch:
            patch.setattr(archives, name, 200_000)
            with pytest.raises(ConfigError, match="200,000 bytes"):
                unpack(archive, path, tmp_path / "set")
    assert everything(tmp_path) == ["set.tar.gz"]


def _locate(archive: Archive) -> str:
    return str(locate(archive, None))


def test_many_processes_at_once(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CIFARLAB_DATA", str(tmp_path / "root"))
    with multiprocessing.get_context("spawn").Pool(4) as pool:
        found = pool.map(_locate, [server.archive()] * 8)
    assert set(found) == {str(tmp_path / "root" / "set")}
    check(tmp_path / "root" / "set")
    assert everything(tmp_path / "root") == sorted(["set", *(f"set/{name}" for name in MEMBERS)])
