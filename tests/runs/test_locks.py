"""A run's lock: one process holds it, also while another leaves a run that never started."""

import contextlib
import fcntl

import pytest
from filelock import FileLock

from cifarlab.core.errors import ConfigError
from cifarlab.runs.folder import Run


def test_a_lock_that_another_process_holds_is_never_removed(tmp_path, monkeypatch):
    """The other acquires it as soon as a run that never started has released it."""
    run, release = Run(tmp_path / "runs" / "a" / "0"), FileLock.release
    with contextlib.ExitStack() as other:

        def released(lock, force=False):
            release(lock, force)
            monkeypatch.undo()
            other.enter_context(Run(run.folder).locked())

        with run.locked():
            monkeypatch.setattr(FileLock, "release", released)
        assert run.lock_path.exists()
        with pytest.raises(ConfigError, match="in use by another process"), run.locked():
            pass


def test_a_lock_that_was_removed_while_another_waited_for_it_is_not_taken(tmp_path, monkeypatch):
    """The other has opened the file before it is removed, and locks it after."""
    run, flock, waiting = Run(tmp_path / "run"), fcntl.flock, contextlib.ExitStack()

    def first_removed(file, how):
        monkeypatch.setattr(fcntl, "flock", flock)
        holder.close()
        flock(file, how)

    with waiting:
        holder = contextlib.ExitStack()
        holder.enter_context(run.locked())
        monkeypatch.setattr(fcntl, "flock", first_removed)
        waiting.enter_context(Run(run.folder).locked(wait=5))
        with pytest.raises(ConfigError, match="in use by another process"), run.locked():
            pass


@pytest.mark.parametrize("fault", ["mkdir", "name", "lock"])
def test_folders_of_a_run_that_cannot_be_locked_do_not_stay(tmp_path, monkeypatch, fault):
    long = "ü" * 150
    name = {"mkdir": f"b/{long}", "name": long, "lock": "b/a"}[fault]
    if fault == "lock":

        def refuse(lock, *_, **__):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(FileLock, "acquire", refuse)
    with pytest.raises(ConfigError, match="cannot be written: "), Run(tmp_path / name / "0").locked():
        pass
    assert list(tmp_path.iterdir()) == []
