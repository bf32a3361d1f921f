"""Published archives: their files, checksums, and how they are unpacked."""

from __future__ import annotations

import hashlib
import shutil
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from cifarlab.core.errors import ConfigError
from cifarlab.data.cache import building, cannot_write

MAX_MEMBER_BYTES = 1 << 28
MAX_ARCHIVE_BYTES = 1 << 30


@dataclass(frozen=True)
class Archive:
    """A published `.tar.gz` archive.

    Attributes:
        url: Address of the archive.
        md5: MD5 checksum of the archive, as hex digits.
        folder: Name of the folder that the archive holds.
        members: Names of the files that the folder must contain.
    """

    url: str
    md5: str
    folder: str
    members: tuple[str, ...]

    @property
    def file(self) -> str:
        """The archive's file name, the last part of `url`."""
        return self.url.rpartition("/")[2]

    def complete(self, folder: Path) -> bool:
        """Tell whether `folder` holds all files of `members`."""
        return all((folder / name).is_file() for name in self.members)


def refuse_other_content(archive: Archive, folder: Path) -> None:
    """Raise ConfigError if an incomplete `folder` holds anything."""
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        lacking = next(name for name in archive.members if not (folder / name).is_file())
        raise ConfigError(
            f"{folder} lacks {lacking}; move it away to have it unpacked again", ("data", "root")
        )


def md5_of(path: Path) -> str:
    """Return the md5 sum of a file, as hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def unpack(archive: Archive, tarball: Path, target: Path) -> None:
    """Verify the md5 sum, then extract `archive.members`, all or none.

    Nothing is done if `target` is complete. Other files of the archive are skipped. All output paths come
    from `archive.members`, so a manipulated file cannot write anywhere else.

    Args:
        archive: The published archive.
        tarball: Path of the `.tar.gz`.
        target: The folder to create.

    Raises:
        ConfigError: The file is not the published archive or cannot be unpacked, or `target` is not empty.
    """
    if archive.complete(target):
        return
    refuse_other_content(archive, target)
    actual = md5_of(tarball)
    if actual != archive.md5:
        raise ConfigError(
            f"{tarball} is not the published archive: its md5 is {actual}, expected {archive.md5}; "
            f"move it away to download {archive.url}", ("data", "root"))  # fmt: skip
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
