"""The user cache: its folders, locks, atomic creation of entries, and a progress bar for slow work."""

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
    """Return the cache folder for one kind of data, without creating it.

    It lies in the folder that the environment variable CIFARLAB_CACHE names, or else in the operating
    system's cache folder for users.
    """
    base = os.environ.get("CIFARLAB_CACHE")
    return (Path(base).expanduser() if base else platformdirs.user_cache_path("cifarlab")) / kind


class Stopped(Exception):
    """A long task stopped because it was asked to. Its unfinished output was removed."""


@contextmanager
def locked(target: Path, *, stop: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Hold a lock on `target` during the `with` block.

    The parent folder of `target` is created.

    Args:
        target: The path that the block creates.
        stop: Called while another process holds the lock. If it returns True, waiting ends.

    Raises:
        ConfigError: The parent folder cannot be written.
        Stopped: `stop()` returned True while waiting.
    """
    lock = FileLock(target.parent / f".{target.name}.lock")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0.5)
        except Timeout:
            console = Console(stderr=True, emoji=False)
            console.print(f"waiting for another process to create {target}", soft_wrap=True, markup=False)
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
    """Return a ConfigError for a path that cannot be written."""
    reason = error.strerror or error
    return ConfigError(f"cannot write {path}: {reason}; set data.root or CIFARLAB_CACHE to another folder")


@contextmanager
def building(target: Path) -> Iterator[Path]:
    """Yield a temporary folder, renamed to `target` if the block succeeds.

    An older `target` is replaced. If the block fails, the temporary folder is removed and `target` is not
    changed.

    Call this under `locked(target)`, because it first removes unfinished folders that killed processes left.
    """
    for left in target.parent.glob(f".{glob.escape(target.name)}.*.tmp"):
        shutil.rmtree(left, ignore_errors=True)
    fresh = target.parent / f".{target.name}.{os.getpid()}.tmp"
    fresh.mkdir()
    try:
        yield fresh
        if target.exists():
            # A non-empty folder cannot be replaced in one step. Readers hold the same lock, so they never see
            # the gap.
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
    """Show a progress bar on standard error.

    If standard error is no terminal, only the title is printed.

    Args:
        title: Text in front of the bar.
        size: Whether the counts are bytes.

    Yields:
        The function report(done, total), which updates the bar. `done` is how much of the task is done, and
            `total` the size of the whole task, or None if unknown.
    """
    console = Console(stderr=True, emoji=False)
    if not console.is_terminal:
        console.print(title, soft_wrap=True, highlight=False, markup=False)
        yield lambda *_: None
        return
    counts = (DownloadColumn(), TransferSpeedColumn()) if size else (MofNCompleteColumn(),)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), *counts, TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bars:
        task = bars.add_task(title, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)
