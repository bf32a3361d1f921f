"""What the machine can do: its device, the arithmetic it is fast in, its memory."""

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
    """The arithmetic of a run: autocast's dtype, and whether losses are scaled (float16 only)."""

    device: torch.device
    dtype: torch.dtype

    def autocast(self) -> contextlib.AbstractContextManager:
        """The context in which forward passes run."""
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=self.dtype)

    @property
    def scaled(self) -> bool:
        return self.dtype == torch.float16

    def layout(self, images: Tensor) -> Tensor:
        """(B, 3, H, W) in the memory format that convolutions are fastest in."""
        return images.to(memory_format=torch.channels_last)

    def __str__(self) -> str:
        return str(self.dtype).removeprefix("torch.")


# glibc's parameters for mallopt, and the variables by which a user sets them.
_MALLOPT = {"MALLOC_TRIM_THRESHOLD_": (-1, 2**31 - 1), "MALLOC_MMAP_THRESHOLD_": (-3, 1 << 30)}


@functools.cache
def keep_freed_memory() -> bool:
    """Have the C library keep the memory that tensors free, for the next ones.

    By default glibc returns every large block to the system, and each page of the next one is then faulted in
    again: up to two thirds of a step on a CPU. A threshold that the user set in the environment stays.

    Returns:
        Whether the allocator took the setting: False where it is not glibc's, where nothing changes.
    """
    if sys.platform != "linux" or "GLIBC_TUNABLES" in os.environ:
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # musl and others
        return False
    taken = [mallopt(*setting) == 1 for name, setting in _MALLOPT.items() if name not in os.environ]
    return all(taken)


def pick_device(name: str) -> torch.device:
    """The device of `train.device`; `auto` is CUDA where there is one, else the CPU. Raises ConfigError.

    Every process that trains, scores or predicts begins here: it keeps its freed memory from here on.
    """
    keep_freed_memory()
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    path = ("train", "device")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"{name!r} is not a device; use auto, cpu, cuda or cuda:1", path) from None
    if device.type == "cpu" and device.index:
        raise ConfigError(f"{name!r}: there is one cpu; use auto or cpu", path)
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"{device.type} is not supported (nobody has tested it); use auto or cpu", path)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"this machine has no {name}; leave train.device=auto", path)
    return device


def pick_precision(name: str, device: torch.device) -> Precision:
    """The arithmetic of `train.precision`; `auto` is bfloat16 where it is fast, float16 on older GPUs."""
    if name == "auto":
        if has_bfloat16(device):
            return Precision(device, torch.bfloat16)
        return Precision(device, torch.float16 if device.type == "cuda" else torch.float32)
    if name == "float16" and device.type != "cuda":
        raise ConfigError("float16 needs a CUDA device; use bfloat16 or float32", ("train", "precision"))
    return Precision(device, DTYPES[name])


def has_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 itself; emulated, it is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu" or sys.platform != "linux":
        return False
    checks = [getattr(torch.cpu, f"_is_{feature}_supported", bool) for feature in ("avx512_bf16", "amx_tile")]
    return any(check() for check in checks)


def picture_budget(device: torch.device) -> int | None:
    """Bytes of pictures that may live on the device; None where the device is the host."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free // 2
    return None


def use_deterministic(device: torch.device, wanted: bool) -> None:
    """Make a GPU repeat itself bit for bit; the CPU does so anyway at an equal number of threads."""
    if device.type == "cuda":
        # cuBLAS reads it once, before its first product: a later run of this process may want it.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.backends.cudnn.benchmark = not wanted
        torch.use_deterministic_algorithms(wanted)


def reset_peak_memory(device: torch.device) -> None:
    """Have `peak_memory` count from now on a GPU; on the CPU it goes on to count from the process's start."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> int:
    """The most bytes this process has held: of the device's memory on a GPU, of the host's on the CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return 0
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024


def num_cores() -> int:
    """How many cores this process may use; in a container they can be fewer than the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe_hardware(device: torch.device) -> dict[str, str | int | None]:
    """What a result was measured on."""
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
        found["gpu_memory_bytes"] = torch.cuda.get_device_properties(device).total_memory
    return found
