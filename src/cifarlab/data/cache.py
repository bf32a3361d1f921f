"""Where fetched and prepared data lie, and how they are made once, whole, by whoever asks first."""

from __future__ import annotations

import glob
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import platformdirs
from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from cifarlab.core.errors import ConfigError


def cache_folder(kind: str) -> Path:
    """The folder for one kind of data, below CIFARLAB_CACHE or the user's cache folder; not made here."""
    base = os.environ.get("CIFARLAB_CACHE")
    return (Path(base).expanduser() if base else platformdirs.user_cache_path("cifarlab")) / kind


class Stopped(Exception):
    """What takes long was asked to stop; what it had not finished is gone."""


@contextmanager
def locked(target: Path, stop: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Hold the right to make `target`, whose parent is made.

    Raises ConfigError where it takes no data, Stopped where `stop()` says so while another process holds it.
    """
    lock = FileLock(target.parent / f".{target.name}.lock")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0.5)
        except Timeout:
            console = Console(stderr=True, emoji=False)
            console.print(f"waiting for another process that makes {target}", soft_wrap=True, markup=False)
            while not lock.is_locked:
                if stop():
                    raise Stopped from None
                with suppress(Timeout):
                    lock.acquire(timeout=0.5)
    except OSError as error:
        raise cannot_write(target.parent, error) from None
    try:
        yield
    finally:
        lock.release()


def cannot_write(path: Path, error: OSError) -> ConfigError:
    """The error for a place that takes no data."""
    reason = error.strerror or error
    return ConfigError(f"cannot write {path}: {reason}; say another folder by data.root or CIFARLAB_CACHE")


@contextmanager
def building(target: Path) -> Iterator[Path]:
    """An empty folder that becomes `target`, in place of an older one, if the block ends well; else it goes.

    To be used under `locked(target)`: what a killed process left behind is removed first.
    """
    for left in target.parent.glob(f".{glob.escape(target.name)}.*.tmp"):
        shutil.rmtree(left, ignore_errors=True)
    fresh = target.parent / f".{target.name}.{os.getpid()}.tmp"
    fresh.mkdir()
    try:
        yield fresh
        if target.exists():
            # A folder cannot be replaced in one step unless it is empty; readers hold the same lock.
            old = target.parent / f".{target.name}.old.tmp"
            target.replace(old)
            fresh.replace(target)
            shutil.rmtree(old, ignore_errors=True)
        else:
            fresh.replace(target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


Report = Callable[[int, int | None], None]


@contextmanager
def progress(title: str, *, size: bool = False) -> Iterator[Report]:
    """A bar on standard error, or one line where that is no terminal.

    Yields report(done, total), both counted from the start; `size`: in bytes.
    """
    console = Console(stderr=True, emoji=False)
    if not console.is_terminal:
        console.print(title, soft_wrap=True, highlight=False, markup=False)
        yield lambda done, total: None
        return
    counts = (DownloadColumn(), TransferSpeedColumn()) if size else (MofNCompleteColumn(),)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), *counts, TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        task = bars.add_task(title, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)
