"""One run's folder: what lies in it, who may write to it, whether it is the run that was asked for."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any, NoReturn

import yaml
from filelock import FileLock, Timeout

from cifarlab.checkpoint import clear_leftovers, write_atomically, write_json
from cifarlab.config import Config, build, translate_saved, without_places
from cifarlab.merging import differences, listed, order
from cifarlab.reading import parse_yaml
from cifarlab.registry import ConfigError

PACKAGES = ("cifarlab", "torch", "torchvision", "timm", "numpy", "pillow", "albumentations")


class Interrupted(Exception):
    """A signal asked the run to stop; it was saved. `status` is the shell's exit status for the signal."""

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.status = status


class StopRequest:
    """While entered, a first SIGINT, SIGTERM or SIGHUP is noted in `signal`; a second stops the process."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        # Python allows signal handlers in the main thread only.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: Any) -> None:
        self.signal = int(number)
        self.__exit__()

    def raise_interrupted(self, run: Run, where: str) -> NoReturn:
        """Leave the run, which was saved at `where`."""
        assert self.signal is not None
        raise Interrupted(f"saved {run} at {where}; the same command goes on", 128 + self.signal)

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


class Run:
    """The folder `runs/<name>/<seed>/`."""

    def __init__(self, folder: Path | str, recipe: str = "", name: str = ""):
        self.folder = Path(folder)
        if ".." in self.folder.parts:  # The folders above it are meant, not the words of the path.
            self.folder = self.folder.resolve()
        self.recipe, self.name = recipe, name or self.folder.parent.name
        self.config_path = self.folder / "config.yaml"
        self.env_path = self.folder / "env.json"
        self.metrics_path = self.folder / "metrics.jsonl"
        self.last_path = self.folder / "last.pt"
        self.best_path = self.folder / "best.pt"
        self.summary_path = self.folder / "summary.json"
        self.lock_path = self.folder / "lock"

    def __str__(self) -> str:
        return str(self.folder)

    @property
    def runs(self) -> Path:
        """The folder of all runs."""
        above = len(Path(self.name).parts)
        parents = self.folder.parents
        return parents[above] if above < len(parents) else self.folder.absolute().parents[above]

    @property
    def started(self) -> bool:
        return self.config_path.exists()

    def summary(self) -> dict[str, Any] | None:
        """The summary of a finished run, else None. Raises ConfigError where the file cannot be read."""
        if not self.summary_path.exists():
            return None
        try:
            summary = read_json(self.summary_path)
            if not {"chosen_on", "chosen_epoch", "train_top1", "val_top1", "test_top1"} <= summary.keys():
                raise ConfigError(f"{self.summary_path}: cannot be read: it is no run's summary")
        except ConfigError as error:
            fix = "remove it, and the command that trained the run writes it anew"
            raise ConfigError(f"{error}; {fix}") from None
        return summary

    def plain_config(self) -> dict[str, Any]:
        """Read the resolved configuration, in today's names. Raises ConfigError where this is no run."""
        try:
            text = self.config_path.read_text(encoding="utf-8")
            plain = parse_yaml(text, str(self.config_path))
        except FileNotFoundError:
            if not self.folder.is_dir():
                raise ConfigError(f"{self.folder}: no such run") from None
            seeds = sorted(path.parent for path in self.folder.glob("*/config.yaml"))
            hint = f"; did you mean {seeds[0]}?" if seeds else ""
            raise ConfigError(f"{self.folder} is not a run: it has no config.yaml{hint}") from None
        except OSError as error:
            raise ConfigError(f"{self.config_path}: cannot be read: {error.strerror or error}") from None
        except UnicodeDecodeError as error:
            raise ConfigError(f"{self.config_path}: cannot be read: {error}; `--fresh` starts over") from None
        except ConfigError as error:
            raise ConfigError(f"{error}; `--fresh` starts over") from None
        sections = ("data", "model", "objective", "optim", "train")
        if not isinstance(plain, dict) or not all(isinstance(plain.get(key), dict) for key in sections):
            raise ConfigError(f"{self.config_path}: damaged: a section is missing; `--fresh` starts over")
        return translate_saved(plain)

    def refuse_other(self, config: Config, fix: str | None = None) -> None:
        """Raise ConfigError if the folder holds another configuration; path and device may differ.

        fix: what to do then, of a command without `--name` and `--fresh`.
        """
        if not self.started:
            if self.last_path.exists() or self.summary_path.exists():
                raise ConfigError(f"{self.folder} has lost its config.yaml; `--fresh` starts it over")
            return
        changed = changes_since(self.plain_config(), config)
        if changed:
            fix = fix or f"keep both with `--name {self.name}-2`, or replace it with `--fresh`"
            found = listed(changed, "there", "now")
            raise ConfigError(f"{self.folder} is a run of another configuration ({found}); {fix}")

    @contextlib.contextmanager
    def locked(self, wait: float = 0.0) -> Iterator[None]:
        """Hold the run: a second process is refused. The system frees the lock of a process that dies.

        wait: how many seconds to wait for the other process.
        """
        made = [path for path in (self.folder, *self.folder.parents) if not path.exists()]
        lock = FileLock(self.lock_path)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=wait)
        except Timeout:
            raise ConfigError(
                f"{self.folder} is in use by another process; wait for it (or train beside it, with --name)"
            ) from None
        except OSError as error:
            raise ConfigError(f"{self.folder}: cannot be written: {error.strerror or error}") from None
        try:
            clear_leftovers(self.folder)
            yield
        finally:
            lock.release()
            if made and not self.started:
                self._leave_nothing(made)

    def _leave_nothing(self, made: list[Path]) -> None:
        """Remove the lock and the folders that only a run that never started had need of."""
        self.lock_path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # What is not empty stays.
            for path in made:
                path.rmdir()

    def start_over(self) -> None:
        """Remove what a run wrote, and nothing else.

        The configuration goes last: half a removal must not look like a run of another one.
        """
        for path in (self.summary_path, self.last_path, self.best_path, self.metrics_path, self.env_path):
            path.unlink(missing_ok=True)
        for path in (*self.folder.glob("analysis*.json"), *self.folder.glob("analysis*.png")):
            path.unlink()
        shutil.rmtree(self.folder / "tensorboard", ignore_errors=True)
        self.config_path.unlink(missing_ok=True)

    def write_config(self, config: Config) -> None:
        text = f"# {self.recipe}, resolved: every option of the run.\n" + yaml.safe_dump(
            config.dump(), sort_keys=False
        )
        write_atomically(self.config_path, lambda file: file.write(text.encode()))

    def write_env(self, env: dict[str, Any]) -> None:
        """Write env.json; the environments of earlier sittings, first to last, are kept under `earlier`."""
        try:
            before = read_json(self.env_path) if self.env_path.exists() else None
        except ConfigError:  # Damaged: kept for whoever can read it, and no reason not to train.
            before = None
            self.env_path.replace(self.env_path.with_suffix(".damaged"))
        earlier = [*before.pop("earlier", []), before] if before else []
        # A later sitting reads its checkpoint only; what the run started from stays on record.
        if before and not env.get("weights") and before.get("weights"):
            env = {**env, "weights": before["weights"]}
        write_json(self.env_path, {**env, "earlier": earlier})


def recorded_run(folder: Path | str) -> Run:
    """The run in a folder, by the name under which it was trained: names may have several parts."""
    run = Run(folder)
    with contextlib.suppress(ConfigError):
        name = Path(str(read_json(run.env_path).get("name", "")))
        parents = run.folder.absolute().parent.parts
        if name.parts and parents[-len(name.parts) :] == name.parts:
            return Run(folder, name=name.as_posix())
    return run


def changes_since(plain: dict[str, Any], config: Config) -> dict[str, tuple[Any, Any]]:
    """Compare a saved configuration with `config`: {dotted key: (saved, config's)}.

    What may differ between two sittings of one run (path, device) is left out. Keys that the saving version
    did not have count as their defaults.
    """
    return differences(without_places(_as_of_now(plain)), config.identity())


def _as_of_now(plain: dict[str, Any]) -> dict[str, Any]:
    """A saved configuration with the defaults of keys that the version which saved it did not have."""
    try:
        return build(order(plain)).dump()
    except ConfigError:  # A part of it is not registered, or renamed: then it is compared as it stands.
        return plain


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises ConfigError naming a file that is not one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (ValueError, OSError) as error:
        empty = isinstance(error, json.JSONDecodeError) and not error.doc.strip()
        reason = "it is empty" if empty else getattr(error, "strerror", None) or str(error).partition("\n")[0]
        raise ConfigError(f"{path}: cannot be read: {reason}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: cannot be read: not a JSON object")
    return content


def describe_environment(hardware: dict[str, object]) -> dict[str, Any]:
    """Versions, hardware, command, git state and time: what a result stands on."""
    versions = {"python": sys.version.split()[0]}
    for package in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": sys.argv,
        "versions": versions,
        "hardware": hardware,
        "git": _git_state(),
    }


def _git_state() -> dict[str, Any] | None:
    """Commit and cleanliness of the package's own checkout; None where it is installed without one."""
    git = partial(
        subprocess.run, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=True
    )
    try:
        return {
            "commit": git(["git", "rev-parse", "HEAD"]).stdout.strip(),
            "dirty": bool(git(["git", "status", "--porcelain"]).stdout.strip()),
        }
    except (OSError, subprocess.SubprocessError):
        return None
