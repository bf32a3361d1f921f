"""Published archives: finding them on this machine, else fetching them; checked, then unpacked."""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import tarfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cifarlab.core.errors import ConfigError
from cifarlab.data.cache import building, cache_folder, cannot_write, locked, progress

MAX_MEMBER_BYTES = 1 << 28
MAX_ARCHIVE_BYTES = 1 << 30
TIMEOUT_SECONDS = 30
BYTES_AT_ONCE = 1 << 18


class DataUnavailable(ConfigError):
    """A data set that is not on this machine and cannot be fetched."""


@dataclass(frozen=True)
class Archive:
    """A published `.tar.gz`: its address, md5, the folder that it holds and that folder's known files."""

    url: str
    md5: str
    folder: str
    members: tuple[str, ...]

    @property
    def file(self) -> str:
        return self.url.rpartition("/")[2]

    def complete(self, folder: Path) -> bool:
        """Whether all known files lie in `folder`."""
        return all((folder / name).is_file() for name in self.members)


def search_places(root: str | None) -> list[Path]:
    """Where a published data set is looked for: `data.root`, CIFARLAB_DATA, the user's cache folder."""
    given = [place for place in (root, os.environ.get("CIFARLAB_DATA")) if place]
    return [*(Path(place).expanduser() for place in given), cache_folder("data")]


def locate(archive: Archive, root: str | None) -> Path:
    """The folder with the archive's files.

    Each of `search_places` may hold the extracted folder, be that folder, hold the `.tar.gz` or be it. A
    `.tar.gz` is unpacked beside itself, or in the cache folder where that cannot be written. Where none holds
    anything, the archive is fetched into the first: `data.root` says where the data lie, or shall lie.

    Raises ConfigError for an archive or folder that is not whole, DataUnavailable where there is none and no
    network.
    """
    places = search_places(root)
    for place in places:
        if found := _extracted(archive, place):
            return found
        tarball = place if place.is_file() else place / archive.file
        if tarball.is_file():
            return _unpack_beside(archive, tarball)
    first = places[0]
    return fetch(archive, first.parent if first.name == archive.folder else first)


def is_at_hand(archive: Archive, root: str | None) -> bool:
    """Whether `locate` finds it on this machine. Raises ConfigError as `locate` does."""
    return any(
        _extracted(archive, place) or (place if place.is_file() else place / archive.file).is_file()
        for place in search_places(root)
    )


def _extracted(archive: Archive, place: Path) -> Path | None:
    for folder in (place / archive.folder, place):
        if archive.complete(folder):
            return folder
        if folder.name == archive.folder and folder.is_dir() and any(folder.iterdir()):
            if (folder / archive.file).is_file():
                continue
            lacking = next(name for name in archive.members if not (folder / name).is_file())
            raise ConfigError(
                f"{folder} lacks {lacking}; remove the folder to have it made anew", ("data", "root")
            )
    return None


def _unpack_beside(archive: Archive, tarball: Path) -> Path:
    parent = tarball.parent if os.access(tarball.parent, os.W_OK) else cache_folder("data")
    target = parent / archive.folder
    with locked(target):
        if not archive.complete(target):
            unpack(archive, tarball, target)
    return target


def md5_of(path: Path) -> str:
    """The md5 sum of a file, as hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def unpack(archive: Archive, tarball: Path, target: Path) -> None:
    """Check the md5 sum, then write the known files as `target`, all or nothing. Raises ConfigError.

    Members that are not known are passed over; nothing that a member's name or type says decides where a byte
    lands.
    """
    actual = md5_of(tarball)
    if actual != archive.md5:
        raise ConfigError(
            f"{tarball} is not the published archive: its md5 is {actual}, expected {archive.md5}; "
            f"move it away to have it fetched from {archive.url}", ("data", "root"))  # fmt: skip
    try:
        with building(target) as fresh, tarfile.open(tarball, "r:gz") as tar:
            _extract(archive, tar, fresh)
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise ConfigError(f"{tarball} cannot be unpacked: {error}", ("data", "root")) from None
    except OSError as error:
        raise cannot_write(target, error) from None


def _extract(archive: Archive, tar: tarfile.TarFile, folder: Path) -> None:
    wanted = {f"{archive.folder}/{name}": name for name in archive.members}
    passed = 0
    for member in tar:
        passed += max(member.size, 0)
        if passed > MAX_ARCHIVE_BYTES:
            raise tarfile.TarError(f"more than {MAX_ARCHIVE_BYTES:,} bytes")
        name = wanted.pop(member.name.removeprefix("./"), None)
        if name is None:
            continue
        source = tar.extractfile(member) if member.isreg() else None
        if source is None or member.size > MAX_MEMBER_BYTES:
            raise tarfile.TarError(f"member {member.name} is no file of at most {MAX_MEMBER_BYTES:,} bytes")
        with source, (folder / name).open("xb") as out:
            shutil.copyfileobj(source, out)
        if not wanted:
            return
    raise tarfile.TarError(f"it lacks {next(iter(wanted))}")


def fetch(archive: Archive, folder: Path) -> Path:
    """Download into `folder` and unpack there; goes on with the `.part` file of an earlier attempt.

    Raises DataUnavailable where the address cannot be reached; then nothing was made.
    """
    target, part = folder / archive.folder, folder / f"{archive.file}.part"
    if not _is_whole(archive, part):
        # Asked before any folder or lock is made, so that a machine without network is left as it was.
        _ask(archive, folder, 0).close()
    with locked(target):
        if archive.complete(target):
            return target
        if not _is_whole(archive, part):
            _download(archive, folder, part)
        if not _is_whole(archive, part):
            actual = md5_of(part)
            part.unlink()
            raise DataUnavailable(
                f"{archive.url} sent a file of md5 {actual}, expected {archive.md5}; it was removed. "
                f"Try again, or put {archive.file} into {folder}, or try data.dataset=synthetic")  # fmt: skip
        unpack(archive, part, target)
        part.unlink()
    return target


def _is_whole(archive: Archive, part: Path) -> bool:
    return part.is_file() and md5_of(part) == archive.md5


def _ask(archive: Archive, folder: Path, start: int) -> http.client.HTTPResponse:
    headers = {"User-Agent": "cifarlab"} | ({"Range": f"bytes={start}-"} if start else {})
    try:
        return urllib.request.urlopen(
            urllib.request.Request(archive.url, headers=headers), timeout=TIMEOUT_SECONDS
        )
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416 and start:
            return _ask(archive, folder, 0)
        raise _unavailable(archive, folder, f"{error.code} {error.reason}") from None
    except (OSError, http.client.HTTPException) as error:
        raise _unavailable(archive, folder, getattr(error, "reason", None) or error) from None


def _unavailable(archive: Archive, folder: Path, reason: Any) -> DataUnavailable:
    return DataUnavailable(
        f"{archive.folder} is not on this machine and {archive.url} cannot be fetched ({reason}). "
        f"Put {archive.file} into {folder.absolute()}, or say data.root=FOLDER, "
        "or do without: data.dataset=synthetic"
    )


def _download(archive: Archive, folder: Path, part: Path) -> None:
    """Fill `part` up to the length that the server states, asking again while each answer brings more."""
    start, most = part.stat().st_size if part.is_file() else 0, None
    with progress(f"fetching {archive.url} to {folder}", size=True) as report:
        while True:
            with _ask(archive, folder, start) as response:
                if response.status != 206 or not response.headers.get("Content-Range", "").startswith(
                    f"bytes {start}-"
                ):
                    start = 0
                most = start if most is None else most
                stated = response.headers.get("Content-Length", "")
                end = start + int(stated) if stated.isdigit() else None
                size, reason = _receive(response, part, start, lambda done, end=end: report(done, end))
            if size == end or (end is None and not reason):
                return
            if size <= most:
                if not size:
                    part.unlink(missing_ok=True)
                raise _unavailable(
                    archive, folder, reason or "the connection was cut; the same command goes on from there"
                )
            start = most = size


def _receive(response: Any, part: Path, start: int, report: Callable[[int], None]) -> tuple[int, Any]:
    """Append what comes to the first `start` bytes of `part`; its size then, and what cut it short."""
    size = start
    try:
        with part.open("r+b" if start else "wb") as out:
            out.truncate(start)
            out.seek(start)
            while size <= MAX_ARCHIVE_BYTES:
                try:
                    block = response.read(BYTES_AT_ONCE)
                except (OSError, http.client.HTTPException) as error:
                    return size, error
                if not block:
                    return size, None
                out.write(block)
                size += len(block)
                report(size)
    except OSError as error:
        raise cannot_write(part, error) from None
    part.unlink()
    raise ConfigError(
        f"{part.name}: more than {MAX_ARCHIVE_BYTES:,} bytes were sent; it was removed", ("data", "root")
    )
