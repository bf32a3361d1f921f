"""One run's folder: what lies in it, who may write to it, whether it is the run that was asked for."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from cifarlab.config import Config, build_config, without_places
from cifarlab.config.merge import differences, listed, order
from cifarlab.config.saved import translate_saved
from cifarlab.core.errors import ConfigError
from cifarlab.core.files import clear_leftovers, write_atomically, write_json
from cifarlab.core.plain import Plain
from cifarlab.core.reading import parse_yaml
from cifarlab.runs.environment import Environment
from cifarlab.runs.naming import run_name, spelled
from cifarlab.runs.summary import Summary


class Run:
    """The folder `runs/<name>/<seed>/`. recipe_files: those of its recipe, as `Recipe.files`."""

    def __init__(
        self,
        folder: Path | str,
        recipe: str = "",
        name: str = "",
        recipe_files: Sequence[dict[str, str]] = (),
    ):
        self.folder = Path(folder)
        if ".." in self.folder.parts:  # The folders above it are meant, not the words of the path.
            self.folder = self.folder.resolve()
        self.recipe, self.name = recipe, run_name(name) if name else self.folder.absolute().parent.name
        self.recipe_files = tuple(recipe_files)
        self.config_path = self.folder / "config.yaml"
        self.env_path = self.folder / "env.json"
        self.metrics_path = self.folder / "metrics.jsonl"
        self.last_path = self.folder / "last.pt"
        self.best_path = self.folder / "best.pt"
        self.summary_path = self.folder / "summary.json"
        self.lock_path = self.folder / "lock"

    def __str__(self) -> str:
        return str(self.folder)

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r})"

    def __fspath__(self) -> str:
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

    def summary(self) -> Summary | None:
        """The summary of a finished run, else None. Raises ConfigError where the file cannot be read."""
        if not self.summary_path.exists():
            return None
        try:
            return Summary.read(self.summary_path)
        except ConfigError as error:
            fix = "remove it, and the command that trained the run writes it anew"
            raise ConfigError(f"{error}; {fix}") from None

    def finished(self) -> Summary:
        """The summary of a run that is known to be finished. Raises ConfigError where it is not."""
        if (summary := self.summary()) is None:
            raise ConfigError(f"{self.folder}: not finished")
        return summary

    def write_summary(self, summary: Summary) -> None:
        """Write summary.json, which says that the run is finished."""
        write_json(self.summary_path, summary.to_json())

    def plain_config(self) -> dict[str, Plain]:
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
        if not self.started:
            self._refuse_nesting()
        made = [path for path in (self.folder, *self.folder.parents) if not path.exists()]
        lock = FileLock(self.lock_path)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=wait)
            except FileNotFoundError:  # Another process, whose run never started, has removed the folder.
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
            # A run that never started leaves nothing.
            made = [] if self.started else made
            if made:  # While it is held: once it is released it may be another's.
                with contextlib.suppress(OSError):
                    self.lock_path.unlink()
            lock.release()
            with contextlib.suppress(OSError):  # What is not empty stays.
                for path in made:
                    path.rmdir()

    def _refuse_nesting(self) -> None:
        """Raise ConfigError where the folder would lie in, or around, a run."""
        above = self.folder.absolute().parents[: len(Path(self.name).parts)]
        runs = [path for path in above if (path / "config.yaml").exists()]
        runs += [path.parent for path in self.folder.rglob("config.yaml")]
        if runs:
            raise ConfigError(f"{self.folder} and the run {runs[0]} would share a folder; use another --name")

    def start_over(self) -> None:
        """Remove what a run wrote, and nothing else.

        The configuration goes last: half a removal must not look like a run of another one.
        """
        for path in (self.summary_path, self.last_path, self.best_path, self.metrics_path, self.env_path):
            path.unlink(missing_ok=True)
        for pattern in ("analysis*.json", "analysis*.png", "plot.png", "env.damaged"):
            for path in self.folder.glob(pattern):
                path.unlink()
        shutil.rmtree(self.folder / "tensorboard", ignore_errors=True)
        self.config_path.unlink(missing_ok=True)

    def write_config(self, config: Config) -> None:
        text = f"# {self.recipe}, resolved: every option of the run.\n" + yaml.safe_dump(
            config.dump(), sort_keys=False
        )
        write_atomically(self.config_path, lambda file: file.write(text.encode()))

    def write_env(self, env: Environment) -> None:
        """Write env.json; the environments of earlier processes, first to last, are kept under `earlier`."""
        before, earlier = None, []
        try:
            before = Environment.read(self.env_path) if self.env_path.exists() else None
        except ConfigError:  # Damaged: kept for whoever can read it, and no reason not to train.
            self.env_path.replace(self.env_path.with_suffix(".damaged"))
        if before is not None:
            earlier = [*before.earlier, before.model_dump(exclude_unset=True, exclude={"earlier"})]
            # A later process reads its checkpoint only; what the run started from stays on record.
            env = env if env.weights else env.changed(weights=before.weights)
        write_json(self.env_path, env.changed(earlier=earlier).to_json())


def recorded_run(folder: Path | str) -> Run:
    """Return the run in a folder with its recorded name and recipe's files.

    Names may have several parts.
    """
    run = Run(folder)
    with contextlib.suppress(ConfigError):
        env = Environment.read(run.env_path)
        run.recipe_files = tuple(env.recipes)
        name = spelled(env.name)
        parts, parents = Path(name).parts, run.folder.absolute().parent.parts
        if parts and parents[-len(parts) :] == parts:
            run.name = name
    return run


def changes_since(plain: dict[str, Plain], config: Config) -> dict[str, tuple[Any, Any]]:
    """Compare a saved configuration with `config`: {dotted key: (saved, config's)}.

    What may differ between two processes of one run (path, device) is left out. Keys that the saving version
    did not have count as their defaults.
    """
    return differences(without_places(_as_of_now(plain)), config.identity())


def _as_of_now(plain: dict[str, Plain]) -> dict[str, Plain]:
    """A saved configuration with the defaults of keys that the version which saved it did not have."""
    try:
        return build_config(order(plain)).dump()
    except ConfigError:  # A part of it is not registered, or renamed: then it is compared as it stands.
        return plain
