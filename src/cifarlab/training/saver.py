"""Asynchronous checkpoints: a thread writes snapshots of the state while training continues."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import torch
from torch import Tensor

from cifarlab.core import checkpoints
from cifarlab.training.state import BestState, LastState

Last = TypeVar("Last")
Best = TypeVar("Best")


@dataclass(frozen=True)
class _Job:
    """Copies of states to write. `taken`: CUDA event recorded after the copying; None on a CPU."""

    last: LastState
    best: BestState | None
    taken: torch.cuda.Event | None


class Saver:
    """Context manager with a thread that writes submitted states to disk.

    States are copied when they are submitted, so training can change the tensors at once. Training waits
    neither for the disk nor for the device.

    While the thread writes, one submission waits. A newer submission replaces the waiting one, which bounds
    memory. If the newer one has no best state, the best state of the replaced one is kept.

    The thread writes `best.pt` before `last.pt`. So if `last.pt` names an epoch as the best so far, `best.pt`
    holds that epoch or a later one. On exit, the context manager waits until all submissions are written or
    have failed.

    The thread allocates memory and waits for the device. While it runs, CUDA graphs must be captured with
    `capture_error_mode="thread_local"`, which allows that.

    Args:
        best: Path of `best.pt`.
        last: Path of `last.pt`.
        device: Device of the submitted tensors.
    """

    def __init__(self, best: Path, last: Path, device: torch.device):
        self.best, self.last, self.device = best, last, device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        # Guards the next three attributes and notifies of their changes.
        self._changed = threading.Condition()
        self._waiting: _Job | None = None
        self._busy = self._leaving = False
        self._error: BaseException | None = None
        # Best state that is not on disk yet. It must be written before a `last.pt` that names its epoch. Only
        # the thread uses it.
        self._owed: BestState | None = None
        # Not a daemon: submitted states are written even if the interpreter is about to exit.
        self._thread = threading.Thread(target=self._write_all, name="saver")

    def __enter__(self) -> Saver:
        self._thread.start()
        return self

    def submit(self, last: LastState, best: BestState | None = None) -> None:
        """Copy states and submit the copies to be written.

        If writing an earlier submission has failed, the error is raised here, once. The new states are
        submitted even then.

        Args:
            last: The content of `last.pt`.
            best: The content of `best.pt`. None: the file stays as it is.
        """
        last, best = snapshot(last, best)
        taken = None
        if self._stream is not None:
            taken = torch.cuda.Event()
            taken.record(torch.cuda.current_stream(self.device))
        job = _Job(last, best, taken)
        with self._changed:
            if job.best is None and self._waiting is not None:
                # Its copy was made earlier on the same stream, so the newer `taken` covers both.
                job = replace(job, best=self._waiting.best)
            self._waiting = job
            self._changed.notify_all()
        self._raise_error()

    def wait(self) -> None:
        """Wait until each submission is written or has failed. Raise no error."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting is None and not self._busy)

    def flush(self) -> None:
        """Wait until each submission is written or has failed. Raise the first error, once."""
        self.wait()
        self._raise_error()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._leaving = True
            self._changed.notify_all()
        impatience = None
        while self._thread.is_alive():
            # The run's lock is released after this. The thread must have finished with the files by then.
            try:
                self._thread.join()
            except KeyboardInterrupt as interrupt:
                impatience = interrupt
        if kind is None and impatience is not None:
            raise impatience
        if kind is None:
            self._raise_error()

    def _raise_error(self) -> None:
        with self._changed:
            error, self._error = self._error, None
        if error is not None:
            try:
                raise error
            finally:
                del error  # Its traceback refers to this frame. The cycle would keep snapshots in memory.

    def _write_all(self) -> None:
        while self._has_job():
            try:
                self._write()
            except BaseException as error:
                # The training thread raises it. Only the first error is kept.
                with self._changed:
                    self._error = self._error or error

    def _has_job(self) -> bool:
        """Wait for a job. Return False if none waits and the context manager exits."""
        with self._changed:
            self._busy = False
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._waiting is not None or self._leaving)
            self._busy = self._waiting is not None
            return self._busy

    def _write(self) -> None:
        with self._changed:
            job, self._waiting = self._waiting, None
        assert job is not None, "only this thread takes jobs"
        self._owed = self._owed if job.best is None else job.best
        last, self._owed = self._on_host(job.last, self._owed, job.taken)
        del job  # Free the device's memory before writing to disk.
        if self._owed is not None:
            checkpoints.save_checkpoint(self.best, self._owed)
            self._owed = None
        checkpoints.save_checkpoint(self.last, last)

    def _on_host(
        self, last: LastState, best: BestState | None, taken: torch.cuda.Event | None
    ) -> tuple[LastState, BestState | None]:
        """Copy the states of `last.pt` and `best.pt` to the host.

        On a GPU a separate stream is used, so training is not delayed. `taken` is as in `_Job`.
        """
        if self._stream is None or taken is None:
            return last, best
        # Wait for an event instead of the stream: a blocking event does not occupy a core while waiting.
        copied = torch.cuda.Event(blocking=True)
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(taken)
            states = _copies(_start_copy, last, best)
            copied.record(self._stream)
        copied.synchronize()
        return states


def snapshot(last: Last, best: Best) -> tuple[Last, Best]:
    """Copy the states of `last.pt` and `best.pt`.

    Tensors are copied on their own device, without waiting for a GPU. If the device has no memory for the
    copies, tensors are copied to the host, for which training waits.
    """
    with suppress(torch.OutOfMemoryError):
        return _copies(_clone, last, best)
    # Not in an `except` clause: the error's traceback would keep the copies made so far.
    return _copies(lambda tensor: tensor.detach().to("cpu", copy=True), last, best)


def _clone(tensor: Tensor) -> Tensor:
    return tensor.detach().clone()


def _start_copy(tensor: Tensor) -> Tensor:
    """Start to copy a tensor to the host. Return the copy, perhaps incomplete."""
    if tensor.device.type == "cpu":
        return tensor
    return torch.empty_like(tensor, device="cpu", pin_memory=True).copy_(tensor, non_blocking=True)


def _copies(change: Callable[[Tensor], Tensor], last: Last, best: Best) -> tuple[Last, Best]:
    """Copy both states with `change` applied to each tensor.

    Tensors with the same memory share a result.
    """
    known: dict[object, Tensor] = {}
    return _copied(last, change, known), _copied(best, change, known)


# Not nested in `_copies`: a nested recursive function is a reference cycle. It would keep all tensors in
# `known` until the next garbage collection, perhaps epochs later.
def _copied(value: Any, change: Callable[[Tensor], Tensor], known: dict[object, Tensor]) -> Any:
    if isinstance(value, Tensor):
        place = (value.device, value.data_ptr(), value.dtype, value.shape, value.stride())
        if place not in known:
            known[place] = change(value)
        return known[place]
    if isinstance(value, dict):
        fresh = copy.copy(value)  # Keeps attributes: a module's state dict has `_metadata`.
        for key, item in value.items():
            fresh[key] = _copied(item, change, known)
        return fresh
    if isinstance(value, list | tuple):
        return type(value)(_copied(item, change, known) for item in value)
    return value
