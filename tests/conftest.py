"""What tests share: the real pictures where there are any, and a cache that is not the user's."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from hypothesis import settings
from PIL import Image

from cifarlab import cli
from cifarlab.core.device import num_cores
from cifarlab.data import synthetic
from cifarlab.engine.step import Engine
from cifarlab.runs.signals import Interrupted

# cuBLAS repeats itself if it is told to before its first use, by whichever test that is.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

# The duration of an example depends on the machine and does not fail a test.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Caches below a temporary folder; data of the user's machine are not seen."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CIFARLAB_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("CIFARLAB_DATA", raising=False)
        yield


@pytest.fixture(scope="session", autouse=True)
def _drawn_once() -> Iterator[None]:
    """Draw equal sets of synthetic pictures once in a process: a tiny run draws longer than it trains."""
    drawn = functools.lru_cache(maxsize=64)(synthetic.draw)

    def draw(num: int, **options: Any) -> tuple[np.ndarray, ...]:
        return tuple(array.copy() for array in drawn(num, **options))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic, "draw", draw)
        yield


def find_packs(title: str, *names: str) -> Path:
    """Return the folder that holds the packs called `names`; skip the test where one is missing."""
    given = os.environ.get("CIFARLAB_TEST_PACKS")
    packs = Path(given) if given else REPOSITORY.parent / "shared" / "data"
    if missing := [name for name in names if not (packs / name).is_file()]:
        pytest.skip(f"no real {title}: {packs / missing[0]} is missing; set CIFARLAB_TEST_PACKS")
    return packs


@pytest.fixture(scope="session")
def tiny_imagenet_pictures() -> tuple[np.ndarray, list[str]]:
    """Return 160 validation pictures of Tiny-ImageNet, (160, 3, 48, 48) uint8, and their WordNet ids."""
    path = find_packs("Tiny-ImageNet", "tiny_imagenet48_val.npz") / "tiny_imagenet48_val.npz"
    with np.load(path, allow_pickle=False) as pack:
        data, offsets, labels, classes = (pack[key] for key in ("data", "offsets", "labels", "classes"))
    chosen = range(0, len(labels), len(labels) // 160)[:160]
    files = [io.BytesIO(data[offsets[i] : offsets[i + 1]].tobytes()) for i in chosen]
    images = np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files])
    return images.transpose(0, 3, 1, 2).copy(), [str(classes[labels[i]]) for i in chosen]


@pytest.fixture(scope="session")
def cifar100_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds cifar-100-python/ with the real pictures, unpacked from the packs."""
    needed = ["unpack.py", *(f"cifar100_{part}_webp.npz" for part in ("test", "train_a", "train_b"))]
    packs = find_packs("CIFAR-100", *needed)
    # One for all workers of pytest-xdist, whose folders lie side by side: unpacking takes ten seconds.
    own = tmp_path_factory.getbasetemp()
    root = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "cifar100"
    with FileLock(root.with_suffix(".lock")):
        if not root.is_dir():
            half = root.with_suffix(".half")
            subprocess.run([sys.executable, str(packs / "unpack.py"), "cifar100", str(half)], check=True)
            half.rename(root)
    return root


@pytest.fixture(scope="session")
def small_cifar100_root(cifar100_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `cifar100_root`, with the first 2,500 and 500 pictures: all of them take seconds to read."""
    root = tmp_path_factory.mktemp("small")
    whole, folder = (each / "cifar-100-python" for each in (cifar100_root, root))
    folder.mkdir()
    shutil.copy(whole / "meta", folder)
    for part, count in (("train", 2500), ("test", 500)):
        content = pickle.loads((whole / part).read_bytes(), encoding="bytes")
        few = {key: value if key == b"batch_label" else value[:count] for key, value in content.items()}
        (folder / part).write_bytes(pickle.dumps(few))
    return root


@pytest.fixture(scope="session")
def real_pictures(cifar100_root: Path) -> np.ndarray:
    """(2000, 32, 32, 3) uint8."""
    with (cifar100_root / "cifar-100-python" / "test").open("rb") as file:
        data = pickle.load(file, encoding="bytes")[b"data"]
    return np.asarray(data[:2000]).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1).copy()


@pytest.fixture
def cifarlab(monkeypatch, capsys):
    """Run a command in this process: (exit status, stdout, stderr)."""

    def command(*arguments):
        monkeypatch.setattr(sys, "argv", ["cifarlab", *map(str, arguments)])
        try:
            cli.main()
            status = 0
        except SystemExit as stop:
            status = stop.code or 0
        return status, *capsys.readouterr()

    return command


@pytest.fixture
def stop_at(monkeypatch):
    """Stop a run by a signal after a step: `with stop_at(9): train(...)`."""

    @contextlib.contextmanager
    def stopped(number):
        step = Engine.step

        def interrupted(self, positions, epoch, at):
            step(self, positions, epoch, at)
            if at == number:
                os.kill(os.getpid(), signal.SIGTERM)

        with monkeypatch.context() as patch:
            patch.setattr(Engine, "step", interrupted)
            with pytest.raises(Interrupted):
                yield

    return stopped


# The slowest files, the slowest first. Started last, one would keep a single worker busy at the end.
LONG = (
    "test_benchmarks", "engine/frozen/test_activations", "augment/test_augment", "test_docs",
    "experiments/test_tutorial", "config/test_recipes", "training/test_several_runs",
    "models/test_every_backbone", "test_gpu_suite", "engine/test_compiling", "training/test_loop",
    "test_results_pages", "models/test_cifar_backbones", "test_whole_results", "report/test_chart_libraries",
)  # fmt: skip


def pytest_xdist_auto_num_workers() -> int:
    """A process per core, and one more: tests also wait, for processes that they start and for the disk."""
    return num_cores() + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the long files first; the order within a file, and of the others, stays."""
    places = {f"{name}.py": place for place, name in enumerate(LONG)}
    root = Path(__file__).parent
    items.sort(key=lambda item: places.get(item.path.relative_to(root).as_posix(), len(LONG)))
