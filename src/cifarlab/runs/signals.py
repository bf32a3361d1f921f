"""Stopping a run by a signal. The run is saved first."""

from __future__ import annotations

import signal
import threading
from typing import Any, NoReturn

from cifarlab.runs.folder import Run


class Interrupted(Exception):
    """A signal stopped the run after it was saved.

    Attributes:
        status: Exit status for the process: 128 plus the number of the signal.
    """

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.status = status


class StopRequest:
    """Context manager that records the first SIGINT, SIGTERM or SIGHUP and prevents its usual effect.

    A second signal has its usual effect. Outside the main thread nothing is caught.

    Attributes:
        signal: Number of the caught signal, or None.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        # Python allows signal handlers in the main thread only.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, _frame: Any) -> None:
        self.signal = int(number)
        self.__exit__()

    def raise_interrupted(self, run: Run, where: str) -> NoReturn:
        """Raise Interrupted with a message that the run was saved `where`, e.g. `the end of epoch 3`."""
        assert self.signal is not None
        raise Interrupted(f"saved {run} at {where}; the same command resumes it", 128 + self.signal)

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
