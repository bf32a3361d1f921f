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


@contextlib.contextmanager
def without_tf32() -> Iterator[None]:
    """Float32 products and convolutions in full: TF32 has three decimal digits."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    _use_tf32("highest", False)
    try:
        yield
    finally:
        _use_tf32(*before)


def _use_tf32(products: str, convolutions: bool) -> None:
    with warnings.catch_warnings():
        # Some versions of torch would rather have other names for these.
        warnings.simplefilter("ignore", UserWarning)
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = convolutions
