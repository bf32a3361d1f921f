"""The folder of a run: its files, its lock, and the check of its configuration."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout

from cifarlab.config import Config, build_config, identity_of
from cifarlab.config.merge import apply_before, differences, listed
from cifarlab.config.saved import translate_saved
from cifarlab.core.errors import ConfigError, reason_of
from cifarlab.core.files import clear_leftovers, write_atomically, write_json
from cifarlab.core.plain import Plain, is_dict
from cifarlab.core.reading import parse_yaml
from cifarlab.runs.environment import Environment
from cifarlab.runs.naming import run_name, spelled
from cifarlab.runs.summary import Summary


class Run:
    """The folder of a run, `runs/<name>/<seed>/`.

    Args:
        folder: The folder. It need not exist.
        recipe: Name of the recipe.
        name: Name of the run. Default: the name of the parent folder.
        recipe_files: Files of the recipe, as in `Recipe.files`.

    The arguments are also attributes, as are the paths of the files, e.g. `config_path` and `best_path`.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        recipe: str = "",
        name: str = "",
        recipe_files: Sequence[dict[str, str]] = (),
    ):
        self.folder = Path(folder)
        if ".." in self.folder.parts:  # Its parents are needed, and `parents` does not resolve `..`.
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
        """The folder of all runs, e.g. `runs` for `runs/<name>/<seed>/`."""
        above = len(Path(self.name).parts)
        parents = self.folder.parents
        return parents[above] if above < len(parents) else self.folder.absolute().parents[above]

    @property
    def started(self) -> bool:
        """Whether training has begun: the folder has a `config.yaml`."""
        return self.config_path.exists()

    def summary(self) -> Summary | None:
        """Return the summary of the run. None if it is not finished.

        Raises:
            ConfigError: `summary.json` cannot be read.
        """
        if not self.summary_path.exists():
            return None
        try:
            return Summary.read(self.summary_path)
        except ConfigError as error:
            fix = "remove the file, then repeat the command that trained the run: it writes a new one"
            raise ConfigError(f"{error}; {fix}") from None

    def finished(self) -> Summary:
        """Return the summary of a finished run. Raise ConfigError if it is not finished."""
        if (summary := self.summary()) is None:
            raise ConfigError(f"{self.folder}: not finished")
        return summary

    def write_summary(self, summary: Summary) -> None:
        """Write `summary.json`, which marks the run as finished."""
        write_json(self.summary_path, summary.to_json())

    def plain_config(self) -> dict[str, Any]:
        """Read `config.yaml`, the complete configuration, with current names of options.

        Raises:
            ConfigError: The folder is not a run, or `config.yaml` is damaged.
        """
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
            raise ConfigError(f"{self.config_path}: cannot be read: {reason_of(error)}") from None
        except UnicodeDecodeError as error:
            raise ConfigError(f"{self.config_path}: cannot be read: {reason_of(error)}") from None
        sections = ("data", "model", "objective", "optim", "train")
        if not is_dict(plain) or not all(is_dict(plain.get(key)) for key in sections):
            raise ConfigError(f"{self.config_path}: damaged: a section is missing")
        return translate_saved(plain)

    def refuse_other(self, config: Config, fix: str | None = None) -> None:
        """Raise ConfigError if the folder holds a run of another configuration.

        It is also raised if the folder holds a run whose `config.yaml` is missing or damaged. Keys in
        `NOT_IDENTITY`, such as the device, may differ.

        Args:
            config: The configuration of the run that is about to use the folder.
            fix: Advice at the end of the message. Default: to use the options `--name` or `--fresh`.
        """
        again = fix or "`--fresh` starts over"
        if not self.started:
            if self.last_path.exists() or self.summary_path.exists():
                raise ConfigError(f"{self.folder}: config.yaml is missing; {again}")
            return
        try:
            plain = self.plain_config()
        except ConfigError as error:
            raise ConfigError(f"{error}; {again}") from None
        changed = changes_since(plain, config)
        if changed:
            fix = fix or f"keep both with `--name {self.name}-2`, or replace it with `--fresh`"
            found = listed(changed, "there", "now")
            raise ConfigError(f"{self.folder} is a run of another configuration ({found}); {fix}")

    @contextlib.contextmanager
    def locked(self, wait: float = 0.0) -> Generator[None]:
        """Hold the lock of the run.

        No other process can train this run meanwhile. The system releases the lock of a process that dies.

        Args:
            wait: Seconds to wait for another process to release the lock.

        Raises:
            ConfigError: Another process holds the lock, the folder cannot be written, or it would lie within
                or around the folder of another run.
        """
        try:
            if not self.started:
                self._refuse_nesting()
            made = [path for path in (self.folder, *self.folder.parents) if not path.exists()]
        except OSError as error:  # For example, a name is too long.
            raise self._unwritable(error) from None
        try:
            lock = self._acquired(wait)
        except ConfigError:
            _remove_empty(made)
            raise
        try:
            clear_leftovers(self.folder)
            yield
        finally:
            # Remove the folders of a run that never started.
            made = [] if self.started else made
            if made:  # Before the release: afterwards another process may hold the file.
                with contextlib.suppress(OSError):
                    self.lock_path.unlink()
            lock.release()
            _remove_empty(made)

    def _acquired(self, wait: float) -> FileLock:
        """Create the folder and return its lock, acquired. Raise ConfigError if that fails."""
        lock = FileLock(self.lock_path)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=wait)
            except FileNotFoundError:  # Another process has removed the folder, since its run never started.
                self.folder.mkdir(parents=True, exist_ok=True)
                lock.acquire(timeout=wait)
        except Timeout:
            raise ConfigError(
                f"{self.folder} is in use by another process; wait for it, or train another run with --name"
            ) from None
        except OSError as error:
            raise self._unwritable(error) from None
        return lock

    def _unwritable(self, error: OSError) -> ConfigError:
        return ConfigError(f"{self.folder}: cannot be written: {reason_of(error)}")

    def _refuse_nesting(self) -> None:
        """Raise ConfigError if the folder would lie within or around another run."""
        above = self.folder.absolute().parents[: len(Path(self.name).parts)]
        runs = [path for path in above if (path / "config.yaml").exists()]
        runs += [path.parent for path in self.folder.rglob("config.yaml")]
        if runs:
            raise ConfigError(f"{self.folder} and the run {runs[0]} would be nested; use another --name")

    def start_over(self) -> None:
        """Remove the files that training and later commands wrote, and no others.

        `config.yaml` is removed last. So if the removal is interrupted, the remaining files still have the
        configuration that they belong to.
        """
        for path in (self.summary_path, self.last_path, self.best_path, self.metrics_path, self.env_path):
            path.unlink(missing_ok=True)
        for pattern in ("analysis*.json", "analysis*.png", "plot.png", "env.damaged"):
            for path in self.folder.glob(pattern):
                path.unlink()
        shutil.rmtree(self.folder / "tensorboard", ignore_errors=True)
        self.config_path.unlink(missing_ok=True)

    def write_config(self, config: Config) -> None:
        """Write the resolved configuration to `config.yaml`."""
        text = f"# {self.recipe}, resolved: every option of the run.\n" + yaml.safe_dump(
            config.dump(), sort_keys=False
        )
        write_atomically(self.config_path, lambda file: file.write(text.encode()))

    def write_env(self, env: Environment) -> None:
        """Write `env.json`. The environments already in it are kept under `earlier`, oldest first."""
        before, earlier = None, []
        try:
            before = Environment.read(self.env_path) if self.env_path.exists() else None
        except ConfigError:  # A damaged file does not prevent training. It is kept under another name.
            self.env_path.replace(self.env_path.with_suffix(".damaged"))
        if before is not None:
            earlier = [*before.earlier, before.model_dump(exclude_unset=True, exclude={"earlier"})]
            # A resumed run reads no weights files. Keep the record of the first process.
            env = env if env.weights else env.changed(weights=before.weights)
        write_json(self.env_path, env.changed(earlier=earlier).to_json())


def _remove_empty(folders: Sequence[Path]) -> None:
    """Remove each folder that is empty. Inner folders must come first."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()


def recorded_run(folder: Path | str) -> Run:
    """Return a folder's run, with name and recipe files from `env.json`.

    The path alone does not determine the name: the folder `a/b/0` could be that of a run named `b` or `a/b`.
    """
    run = Run(folder)
    with contextlib.suppress(ConfigError):
        env = Environment.read(run.env_path)
        run.recipe_files = tuple({"path": each.path, "sha256": each.sha256} for each in env.recipes)
        name = spelled(env.name)
        parts, parents = Path(name).parts, run.folder.absolute().parent.parts
        if parts and parents[-len(parts) :] == parts:
            run.name = name
    return run


def changes_since(plain: dict[str, Plain], config: Config) -> dict[str, tuple[Any, Any]]:
    """Compare a saved configuration with a current one.

    Keys in `NOT_IDENTITY`, such as the device, are ignored. Options that did not exist when the configuration
    was saved have their defaults.

    Returns:
        {dotted key: (saved value, current value)}.
    """
    return differences(identity_of(_with_current_defaults(plain)), config.identity())


def _with_current_defaults(plain: dict[str, Plain]) -> dict[str, Plain]:
    """Add the defaults of options that are newer than a saved configuration."""
    try:
        return build_config(apply_before(plain)).dump()
    except ConfigError:  # A part is not registered, or was renamed. Compare the configuration unchanged.
        return plain
