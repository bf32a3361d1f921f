"""What the benchmarks share: which pictures, what a figure stands on, how it is written down."""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

import torch

from cifarlab.config.recipes import Recipe
from cifarlab.config.recipes import read_recipe as read_package_recipe
from cifarlab.core.device import describe_hardware, pick_device
from cifarlab.core.files import write_json
from cifarlab.data.cifar import CIFAR100
from cifarlab.data.download import search_places
from cifarlab.runs.environment import describe_environment
from cifarlab.training.saver import Saver

# What --tiny trains on: enough for a few steps, drawn in a moment.
TINY = ("data.dataset={name: synthetic, train: 300, test: 100}", "data.val=100")
# Above this many runnable processes before a benchmark begins, its figures are not worth keeping.
QUIET_LOAD = 0.5


def parser(description: str) -> argparse.ArgumentParser:
    """The options that every benchmark has."""
    options = argparse.ArgumentParser(description=description)
    options.add_argument("--dataset", choices=("auto", "cifar100", "synthetic"), default="auto",
                         help="auto: CIFAR-100 where it is found, else the drawn pictures")  # fmt: skip
    options.add_argument("--root", help="where CIFAR-100 lies; default: CIFARLAB_DATA, then the user cache")
    options.add_argument("--out", type=Path, help="write the figures to this JSON file")
    options.add_argument("--tiny", action="store_true", help="a few seconds; the figures mean nothing")
    return options


def positive(text: str) -> int:
    """An option's value that must be 1 or more."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return value


def refuse(options: argparse.ArgumentParser, problem: str) -> NoReturn:
    """End with status 2 and one line, as the commands do: the usage would bury it."""
    options.exit(2, f"{options.prog}: error: {problem}\n")


def clocks() -> dict[str, list[float]]:
    """MHz of each core and, where there is an Nvidia GPU, of its multiprocessors and memory; of now."""
    found = {}
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        found["cores"] = [float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz")]
    words = ["nvidia-smi", "--query-gpu=clocks.sm,clocks.mem", "--format=csv,noheader,nounits", "--id=0"]
    with contextlib.suppress(OSError, subprocess.CalledProcessError, ValueError):
        told = subprocess.run(words, capture_output=True, text=True, check=True).stdout
        found["gpu"] = [float(value) for value in told.split(",")]
    return found


def read_recipe(name: str) -> Recipe:
    """Read a recipe of benchmarks/recipes/, else one of the package. Raises ConfigError for neither."""
    own = Path(__file__).with_name("recipes") / f"{name}.yaml"
    return read_package_recipe(str(own) if own.is_file() else name)


def has_cifar100(root: str | None) -> bool:
    """Whether CIFAR-100 is on this machine, as a folder or as the published archive."""
    places = search_places(root)
    folders = [folder for place in places for folder in (place, place / CIFAR100.folder)]
    archives = [archive for place in places for archive in (place, place / CIFAR100.file)]
    return any(map(CIFAR100.complete, folders)) or any(
        archive.name == CIFAR100.file and archive.is_file() for archive in archives
    )


def data_overrides(options: argparse.Namespace) -> tuple[str, list[str]]:
    """What the pictures are, in words, and the overrides that make a recipe read them."""
    if options.tiny:
        return "synthetic, 300 pictures (--tiny)", [*TINY]
    found = options.dataset == "cifar100" or (options.dataset == "auto" and has_cifar100(options.root))
    if not found:
        return "synthetic, 10,000 pictures", ["data.dataset=synthetic"]
    return "CIFAR-100", ["data.dataset=cifar100", *([f"data.root={options.root}"] if options.root else [])]


def begin(
    options: argparse.Namespace, about: str = "", packages: Sequence[str] = (), device: str = "cpu"
) -> tuple[str, list[str], dict[str, Any]]:
    """What the pictures are, in words; the overrides that read them; and what the figures stand on, printed.

    That is time, versions, machine, git state, and how busy the machine and its clocks are before it begins.
    about: what is measured, in words. packages: whose versions count, too. device: as train.device.
    """
    # Runnable processes, over the last minute; some systems do not count them.
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    pictures, overrides = data_overrides(options)
    found = describe_environment(describe_hardware(pick_device(device))).to_json()
    found["versions"] |= {package: metadata.version(package) for package in packages}
    print(f"{describe_machine(found)}\n{pictures}{about and f'; {about}'}")
    if load is not None and load > QUIET_LOAD:
        print(f"note: the machine is busy (load {load:.1f}): these figures are not worth keeping")
    # Results must not contain paths of this machine.
    found["command"] = [_without_folder(word) for word in found["command"]]
    return pictures, overrides, {**found, "load_before": load, "clocks_before": clocks()}


def _without_folder(word: str) -> str:
    """A word of a command whose absolute path, if it has one, is its last name alone."""
    option, equals, value = word.rpartition("=")
    return option + equals + (Path(value).name if Path(value).is_absolute() else value)


@contextlib.contextmanager
def exact_float32() -> Iterator[None]:
    """Float32 as the processor has it: on a GPU, without TF32, whose products have three decimal digits."""
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


@contextlib.contextmanager
def when_saved(then: Callable[[], None]) -> Iterator[None]:
    """Meanwhile `then` is called whenever all files of a run are on the disk, where a thread writes them."""
    flush = Saver.flush

    def flushed(self: Saver) -> None:
        flush(self)
        then()

    Saver.flush = flushed
    try:
        yield
    finally:
        Saver.flush = flush


def now(device: torch.device) -> float:
    """Seconds on a clock, once the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def spread(values: Sequence[float], *, digits: int, best: Any = max) -> dict[str, Any]:
    """Best, median and all of a figure's values, rounded."""
    figures = {"best": best(values), "median": statistics.median(values)}
    return {key: round(value, digits) for key, value in figures.items()} | {
        "rounds": [round(value, digits) for value in values]
    }


def describe_machine(found: dict[str, Any]) -> str:
    """One line for people: processor, cores, threads, torch."""
    hardware = found["hardware"]
    gpu = f"{hardware['gpu']}, " if "gpu" in hardware else ""
    return (
        f"{gpu}{hardware['processor']}, {hardware['cores']} cores, {hardware['threads']} threads, "
        f"torch {found['versions']['torch']}, {found['time']}"
    )


def write(path: Path | None, name: str, result: dict[str, Any]) -> None:
    """Write a result as JSON, if a path was given."""
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"benchmark": name, **result, "clocks_after": clocks()})
    print(f"written: {path}")
