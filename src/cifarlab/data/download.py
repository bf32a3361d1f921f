"""Published data sets: found on this machine or downloaded."""

from __future__ import annotations

import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from cifarlab.core.errors import ConfigError
from cifarlab.data.archives import MAX_ARCHIVE_BYTES, Archive, md5_of, refuse_other_content, unpack
from cifarlab.data.cache import cache_folder, cannot_write, locked, progress

TIMEOUT_SECONDS = 30
BYTES_AT_ONCE = 1 << 18


class DataUnavailable(ConfigError):
    """The data set is not on this machine and cannot be downloaded."""


def search_places(root: str | None) -> list[Path]:
    """Return the places to search for a published data set, in order.

    If `root` (option `data.root`) is given, it is the only one. Otherwise they are the environment variable
    CIFARLAB_DATA, if set, and the user cache.
    """
    if root:
        return [Path(root).expanduser()]
    given = os.environ.get("CIFARLAB_DATA")
    return [*([Path(given).expanduser()] if given else []), cache_folder("data")]


def locate(archive: Archive, root: str | None) -> Path:
    """Return the folder with the archive's files; download them if needed.

    Each of `search_places` may be the extracted folder or the `.tar.gz`, or a folder that holds one of them.
    The `.tar.gz` may also lie in a folder called `archive.folder`. It is unpacked in the folder that it lies
    in or, if that is read-only, in the cache folder. If nothing is found and `root` is None, the archive is
    downloaded to the first place.

    Raises:
        ConfigError: `root` does not hold the data set, or an archive or folder is incomplete or damaged.
        DataUnavailable: Nothing was found, and the archive cannot be downloaded.
    """
    places = search_places(root)
    for place in places:
        if found := _extracted(archive, place):
            return found
        if tarball := _tarball(archive, place):
            return _unpack_beside(archive, tarball)
    if root:
        raise ConfigError(_not_there(archive, root), ("data", "root"))
    first = places[0]
    return fetch(archive, first.parent if first.name == archive.folder else first)


def is_at_hand(archive: Archive, root: str | None) -> bool:
    """Tell whether `locate` finds the archive without a download.

    Raises:
        ConfigError: `root` does not hold the data set, or a folder is incomplete.
    """
    found = any(_extracted(archive, place) or _tarball(archive, place) for place in search_places(root))
    if root and not found:
        raise ConfigError(_not_there(archive, root), ("data", "root"))
    return found


def _not_there(archive: Archive, root: str) -> str:
    """Return what is wrong with a `data.root` that does not hold the archive, and what to do."""
    place = Path(root).expanduser()
    where = "does not exist" if not place.exists() else f"holds no {archive.folder}/ and no {archive.file}"
    if place.is_dir() and any(entry.is_dir() and not entry.name.startswith(".") for entry in place.iterdir()):
        return f"{root} {where}; for your own pictures in folders, set data.dataset=folder"
    return f"{root} {where}; without data.root, it is searched in $CIFARLAB_DATA and the cache, or downloaded"


def _tarball(archive: Archive, place: Path) -> Path | None:
    """Return the `.tar.gz` if `place` is or holds it, else None."""
    known = (place, place / archive.file, place / archive.folder / archive.file)
    return next((path for path in known if path.is_file()), None)


def _extracted(archive: Archive, place: Path) -> Path | None:
    for folder in (place / archive.folder, place):
        if archive.complete(folder):
            return folder
        if folder.name == archive.folder and folder.is_dir() and not (folder / archive.file).is_file():
            refuse_other_content(archive, folder)
    return None


def _unpack_beside(archive: Archive, tarball: Path) -> Path:
    parent = tarball.parent if os.access(tarball.parent, os.W_OK) else cache_folder("data")
    target = parent / archive.folder
    with locked(target):
        unpack(archive, tarball, target)
    return target


def fetch(archive: Archive, folder: Path) -> Path:
    """Download an archive into `folder`, unpack it, return the new folder.

    An unfinished download is resumed from its `.part` file.

    Raises:
        DataUnavailable: The server cannot be reached, or sent another file. If it cannot be reached at the
            start, nothing is created.
    """
    target, part = folder / archive.folder, folder / f"{archive.file}.part"
    if not _is_whole(archive, part):
        # Try the address before creating a folder or lock, so that a machine without network is left
        # unchanged.
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
    """Request the archive from byte `start` on; `folder` is for messages."""
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


def _unavailable(archive: Archive, folder: Path, reason: object) -> DataUnavailable:
    return DataUnavailable(
        f"{archive.folder} is not on this machine and {archive.url} cannot be fetched ({reason}). "
        f"Put {archive.file} into {folder.absolute()}, or set data.root to the folder that holds it, "
        "or use synthetic pictures: data.dataset=synthetic"
    )


def _download(archive: Archive, folder: Path, part: Path) -> None:
    """Download the archive to `part`, which may hold its first bytes.

    After a cut connection the rest is requested again, as long as each response brings more bytes.
    """
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
                    archive, folder, reason or "the connection was cut; the same command resumes the download"
                )
            start = most = size


def _receive(
    response: http.client.HTTPResponse, part: Path, start: int, report: Callable[[int], None]
) -> tuple[int, Exception | None]:
    """Write the response after the first `start` bytes of `part`.

    Returns:
        The size of `part` afterwards, and the error that cut the response short, or None.
    """
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
