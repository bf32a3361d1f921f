"""What the tests that need a CUDA device share."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def sync_is_an_error() -> Iterator[None]:
    """Whoever waits for the device meanwhile fails."""
    try:
        with warnings.catch_warnings():
            # That this mode does not see all waiting yet, as it says, is no mistake of a test's.
            warnings.simplefilter("ignore", UserWarning)
            torch.cuda.set_sync_debug_mode("error")
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
