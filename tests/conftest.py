"""What tests share: the real pictures where there are any, and a cache that is not the user's."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from cifarlab import cli
from cifarlab.engine import Engine
from cifarlab.run import Interrupted

# cuBLAS repeats itself if it is told to before its first use, by whichever test that is.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Caches below a temporary folder; data of the user's machine are not seen."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CIFARLAB_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.delenv("CIFARLAB_DATA", raising=False)
        yield


@pytest.fixture(scope="session")
def cifar100_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds cifar-100-python/ with the real pictures, unpacked from the packs."""
    given = os.environ.get("CIFARLAB_TEST_PACKS")
    packs = Path(given) if given else REPOSITORY.parent / "shared" / "data"
    needed = ["unpack.py", *(f"cifar100_{part}_webp.npz" for part in ("test", "train_a", "train_b"))]
    if missing := [name for name in needed if not (packs / name).is_file()]:
        pytest.skip(f"no real CIFAR-100: {packs} lacks {missing[0]}; set CIFARLAB_TEST_PACKS")
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

        with monkeypatch.context() as patch, pytest.raises(Interrupted):
            patch.setattr(Engine, "step", interrupted)
            yield

    return stopped
