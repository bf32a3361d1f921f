"""One run's folder: what lies in it, who may write to it, whether it is the run that was asked for."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from cifarlab.checkpoint import clear_leftovers, write_atomically, write_json
from cifarlab.config import NOT_IDENTITY, Config, differences
from cifarlab.registry import ConfigError

PACKAGES = ("cifarlab", "torch", "torchvision", "timm", "numpy", "pillow")


class Failure(RuntimeError):
    """Something went wrong that is no mistake of the user's; the message says what, where, and what to do."""


class Interrupted(Exception):
    """A signal asked the run to stop; it was saved. `status` is the shell's exit status for the signal."""

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.status = status


class Run:
    """The folder `runs/<name>/<seed>/`."""

    def __init__(self, folder: Path | str, recipe: str = ""):
        self.folder = Path(folder)
        self.recipe = recipe
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
    def started(self) -> bool:
        return self.config_path.exists()

    def summary(self) -> dict[str, Any] | None:
        """The summary of a finished run, else None. Raises ConfigError where the file cannot be read."""
        return read_json(self.summary_path) if self.summary_path.exists() else None

    def plain_config(self) -> dict[str, Any]:
        """The resolved configuration as it was saved. Raises ConfigError where this is no run."""
        try:
            plain = yaml.safe_load(self.config_path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ConfigError(f"{self.folder} is not a run: it has no config.yaml") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"{self.config_path}: cannot be read: {str(error).partition(chr(10))[0]}"
            ) from None
        if not isinstance(plain, dict):
            raise ConfigError(f"{self.config_path}: cannot be read: not a mapping")
        return plain

    def refuse_other(self, config: Config, name: str) -> None:
        """Raise ConfigError if the folder holds another configuration; path and device may differ."""
        if not self.started:
            return
        saved = self.plain_config()
        for section, key in NOT_IDENTITY:
            saved.get(section, {}).pop(key, None)
        changed = differences(saved, config.identity())
        if changed:
            shown = "; ".join(
                f"{key}: {_brief(old)} there, {_brief(new)} now"
                for key, (old, new) in list(changed.items())[:4]
            )
            more = f"; and {len(changed) - 4} more" if len(changed) > 4 else ""
            raise ConfigError(
                f"{self.folder} is a run of another configuration ({shown}{more}); "
                f"keep both with `--name {name}-2`, or replace it with `--fresh`"
            )

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run: a second process is refused. The system frees the lock of a process that dies."""
        made = not self.folder.exists()
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.lock_path)
        try:
            lock.acquire(blocking=False)
        except Timeout:
            raise ConfigError(
                f"{self.folder} is being trained by another process; wait for it, or use --name"
            ) from None
        try:
            clear_leftovers(self.folder)
            yield
        finally:
            lock.release()
            if made and not self.started:
                self.clear()

    def clear(self) -> None:
        """Remove all that the run's folder holds; the folder too, with parents that are then empty."""
        shutil.rmtree(self.folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            self.folder.parent.rmdir()

    def start_over(self) -> None:
        """Remove everything but the lock."""
        for path in self.folder.iterdir():
            if path != self.lock_path:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def write_config(self, config: Config) -> None:
        text = f"# {self.recipe}, resolved: every option of the run.\n" + yaml.safe_dump(
            config.dump(), sort_keys=False
        )
        write_atomically(self.config_path, lambda file: file.write(text.encode()))

    def write_env(self, env: dict[str, Any]) -> None:
        """Write env.json; the environments of earlier sittings, first to last, are kept under `earlier`."""
        before = read_json(self.env_path) if self.env_path.exists() else None
        earlier = [*before.pop("earlier", []), before] if before else []
        write_json(self.env_path, {**env, "earlier": earlier})


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises ConfigError naming a file that is not one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (ValueError, OSError) as error:
        raise ConfigError(f"{path}: cannot be read: {str(error).partition(chr(10))[0]}") from None
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


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
