"""Checkpoints written beside the training: from snapshots, by a thread."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from cifarlab.core import checkpoints
from cifarlab.training.state import BestState, LastState


@dataclass(frozen=True)
class _Job:
    """What a moment of a run wants on the disk. taken: happens when a GPU has made the copies."""

    last: LastState
    best: BestState | None
    taken: torch.cuda.Event | None


class Saver:
    """While entered, a thread writes what is submitted: to `best`, and then to `last`.

    A file holds its state as it was when it was submitted, though the run trains on in the same tensors.
    Training waits for neither disk nor device: while the thread is busy one submission waits, and a newer one
    takes its place, but keeps its best unless it has one of its own. So memory is bounded, and when a `last`
    on the disk says which epoch is the best so far, `best` holds that epoch or a later one. Who leaves waits:
    everything submitted is then on the disk, as far as it can be written.

    The thread allocates and waits on the device. A step that is captured as a graph meanwhile must forbid
    that to its own thread only (`capture_error_mode="thread_local"`).
    """

    def __init__(self, best: Path, last: Path, device: torch.device):
        self.best, self.last, self.device = best, last, device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        # Guards what follows, and tells of its changes.
        self._changed = threading.Condition()
        self._waiting: _Job | None = None
        self._busy = self._leaving = False
        self._error: BaseException | None = None
        # A best that is not on the disk: no `last` that speaks of it may come before it. The thread's own.
        self._owed: BestState | None = None
        # No daemon: what was submitted is written even where the interpreter is about to end.
        self._thread = threading.Thread(target=self._write_all, name="saver")

    def __enter__(self) -> Saver:
        self._thread.start()
        return self

    def submit(self, last: LastState, best: BestState | None = None) -> None:
        """Have these states written, as they are now. Raises what went wrong with earlier ones, once.

        These are submitted even then: what can yet be written is not lost.
        """
        last, best = snapshot(last, best)
        taken = None
        if self._stream is not None:
            taken = torch.cuda.Event()
            taken.record(torch.cuda.current_stream(self.device))
        job = _Job(last, best, taken)
        with self._changed:
            if job.best is None and self._waiting is not None:
                # Copied earlier on the same stream: `taken` stands for both.
                job = replace(job, best=self._waiting.best)
            self._waiting = job
            self._changed.notify_all()
        self._raise_error()

    def wait(self) -> None:
        """Return when everything submitted is on the disk, or has failed to get there."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting is None and not self._busy)

    def flush(self) -> None:
        """Return when everything submitted is on the disk. Raises what went wrong with it, once."""
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
            # The run's lock is free after this; it must not be before the thread is done with its files.
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
                del error  # Its traceback has this frame: a cycle, which would keep the snapshots of others.

    def _write_all(self) -> None:
        while self._has_job():
            try:
                self._write()
            except BaseException as error:
                # Whatever it was, it is the training's to hear of, and of the first one only.
                with self._changed:
                    self._error = self._error or error

    def _has_job(self) -> bool:
        """Wait for a job. False: there will be none."""
        with self._changed:
            self._busy = False
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._waiting is not None or self._leaving)
            self._busy = self._waiting is not None
            return self._busy

    def _write(self) -> None:
        with self._changed:
            job, self._waiting = self._waiting, None
        assert job is not None, "nobody else takes one away"
        self._owed = self._owed if job.best is None else job.best
        last, self._owed = self._on_host(job.last, self._owed, job.taken)
        del job  # The device has its memory back while the disk is written to.
        if self._owed is not None:
            checkpoints.save_checkpoint(self.best, self._owed)
            self._owed = None
        checkpoints.save_checkpoint(self.last, last)

    def _on_host(
        self, last: LastState, best: BestState | None, taken: torch.cuda.Event | None
    ) -> tuple[LastState, BestState | None]:
        """Both states, copied from a GPU in a stream of its own: the training's goes on."""
        if self._stream is None or taken is None:
            return last, best
        # Events, not the stream, are waited for: a blocking one leaves the processor to others.
        copied = torch.cuda.Event(blocking=True)
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(taken)
            states = _copies(_start_copy, last, best)
            copied.record(self._stream)
        copied.synchronize()
        return states


def snapshot(last: LastState, best: BestState | None) -> tuple[LastState, BestState | None]:
    """Both states as they are now, their tensors copied where they are; a GPU is not waited for.

    Where the device has no room for copies they are made on the host at once: slower, but a run whose step
    just fits goes on.
    """
    with suppress(torch.OutOfMemoryError):
        return _copies(_clone, last, best)
    # Here, not where the error is handled: its traceback keeps the copies that were made.
    return _copies(lambda tensor: tensor.detach().to("cpu", copy=True), last, best)


def _clone(tensor: Tensor) -> Tensor:
    return tensor.detach().clone()


def _start_copy(tensor: Tensor) -> Tensor:
    """The tensor on the host, once the current stream has come so far."""
    if tensor.device.type == "cpu":
        return tensor
    return torch.empty_like(tensor, device="cpu", pin_memory=True).copy_(tensor, non_blocking=True)


def _copies(
    change: Callable[[Tensor], Tensor], last: LastState, best: BestState | None
) -> tuple[LastState, BestState | None]:
    """Both states with their tensors changed; what lies in one place, such as a model in both, once."""
    known: dict[object, Tensor] = {}
    return _copied(last, change, known), _copied(best, change, known)


# Not nested in `_copies`: a nested function that calls itself is a reference cycle, and would keep every
# tensor in `known` until garbage is collected, epochs later.
def _copied(value: Any, change: Callable[[Tensor], Tensor], known: dict[object, Tensor]) -> Any:
    if isinstance(value, Tensor):
        place = (value.device, value.data_ptr(), value.dtype, value.shape, value.stride())
        if place not in known:
            known[place] = change(value)
        return known[place]
    if isinstance(value, dict):
        fresh = copy.copy(value)  # A module's state has its layers' versions beside its items.
        for key, item in value.items():
            fresh[key] = _copied(item, change, known)
        return fresh
    if isinstance(value, list | tuple):
        return type(value)(_copied(item, change, known) for item in value)
    return value
