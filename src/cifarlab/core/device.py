"""Devices: choice of device and precision, memory, determinism, description of the hardware."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cifarlab.core.errors import ConfigError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Precision:
    """The device and the autocast dtype of a run.

    Attributes:
        device: Device of the model and its batches.
        dtype: Autocast dtype. float32: autocast is off.
    """

    device: torch.device
    dtype: torch.dtype

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """Return the autocast context manager for forward passes. It does nothing with float32."""
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    @property
    def scaled(self) -> bool:
        """Whether a gradient scaler is needed, as it is with float16 only."""
        return self.dtype == torch.float16

    def layout(self, images: Tensor) -> Tensor:
        """Return images (B, 3, H, W) in channels-last format. Convolutions are fastest in it."""
        return images.to(memory_format=torch.channels_last)

    def __str__(self) -> str:
        return str(self.dtype).removeprefix("torch.")


# Environment variable: (mallopt's parameter of the same meaning, our value for it).
_MALLOPT = {"MALLOC_TRIM_THRESHOLD_": (-1, 2**31 - 1), "MALLOC_MMAP_THRESHOLD_": (-3, 1 << 30)}


@functools.cache
def keep_freed_memory() -> bool:
    """Make the C library keep freed memory for later tensors.

    By default glibc returns every large block to the system. The next large tensor then causes page faults,
    which take up to two thirds of a training step on a CPU. Thresholds that the user has set in the
    environment are kept.

    Returns:
        Whether the setting was accepted. False if the C library is not glibc, or GLIBC_TUNABLES is set.
    """
    if sys.platform != "linux" or "GLIBC_TUNABLES" in os.environ:
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # musl and others
        return False
    taken = [mallopt(*setting) == 1 for name, setting in _MALLOPT.items() if name not in os.environ]
    return all(taken)


def pick_device(name: str, *, path: tuple[str, ...] = ("train", "device")) -> torch.device:
    """Return the torch device that a name stands for.

    It also calls `keep_freed_memory`, since every process that trains, scores or predicts picks its device
    first.

    Args:
        name: `cpu`, `cuda`, `cuda:1`, ..., or `auto`: CUDA if available, else the CPU.
        path: Key of the option, or name of the argument, that has the value `name`; for error messages.

    Raises:
        ConfigError: The name is not a device, or the machine has no such device.
    """
    keep_freed_memory()
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"{name!r} is not a device; use auto, cpu, cuda or cuda:1", path) from None
    if device.type == "cpu" and device.index:
        raise ConfigError(f"{name!r}: there is only one cpu; use auto or cpu", path)
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"{device.type} is not supported, since it is untested; use auto or cpu", path)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"this machine has no {name}; use {'.'.join(path)}=auto", path)
    return device


def pick_precision(name: str, device: torch.device) -> Precision:
    """Return the precision for a value of `train.precision`.

    Args:
        name: `float32`, `bfloat16`, `float16`, or `auto`: bfloat16 if the device has it in hardware, float16
            on older GPUs, else float32.
        device: The device of the run.

    Raises:
        ConfigError: float16 is asked for on a CPU.
    """
    if name == "auto":
        if has_bfloat16(device):
            return Precision(device, torch.bfloat16)
        return Precision(device, torch.float16 if device.type == "cuda" else torch.float32)
    if name == "float16" and device.type != "cuda":
        raise ConfigError("float16 needs a CUDA device; use bfloat16 or float32", ("train", "precision"))
    return Precision(device, DTYPES[name])


def has_bfloat16(device: torch.device) -> bool:
    """Tell whether the device computes bfloat16 in hardware. Emulation is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu" or sys.platform != "linux":
        return False
    checks = [getattr(torch.cpu, f"_is_{feature}_supported", bool) for feature in ("avx512_bf16", "amx_tile")]
    return any(check() for check in checks)


def picture_budget(device: torch.device) -> int | None:
    """Return how many bytes of pictures may be placed on a GPU. None on a CPU: there is no limit."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free // 2
    return None


def use_deterministic(device: torch.device, wanted: bool) -> None:
    """Turn torch's deterministic algorithms for GPUs on or off.

    With them, results on a GPU are bit-identical. On a CPU this has no effect: results are bit-identical
    anyway if the number of threads is the same.

    Args:
        device: The device of the run.
        wanted: Whether to turn them on.
    """
    if device.type == "cuda":
        # Set even if not wanted, since a later run of this process may need it: cuBLAS reads it only once,
        # before its first product.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = not wanted
        torch.use_deterministic_algorithms(wanted)


def reset_peak_memory(device: torch.device) -> None:
    """Restart the measurement of `peak_memory` on a GPU. On a CPU this has no effect."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> int:
    """Return the process's peak memory in bytes.

    On a GPU it is the memory of torch's tensors since `reset_peak_memory`. On a CPU it is the memory of the
    process since its start, or 0 if the system does not report it (Windows).
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return 0
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024


def num_cores() -> int:
    """Return how many CPU cores this process may use. These may be fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe_hardware(device: torch.device) -> dict[str, str | int | None]:
    """Describe the hardware for `env.json`.

    Returns:
        `device`, `processor`, `cores`, `threads` (torch's) and `system`. On a GPU also `gpu` and
        `gpu_memory_bytes`.
    """
    name = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    found: dict[str, str | int | None] = {
        "device": device.type,
        "processor": name,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "system": f"{platform.system()} {platform.machine()}",
    }
    if device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
        found["gpu_memory_bytes"] = torch.cuda.get_device_properties(device).total_memory  # pyright: ignore[reportUnknownMemberType]
    return found
