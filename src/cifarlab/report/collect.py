"""The finished runs below a folder, grouped by name, and the runs that are skipped."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean

from PIL import Image

from cifarlab.core.errors import ConfigError
from cifarlab.core.plain import Plain
from cifarlab.evaluation.analysis.records import AnalysisFile
from cifarlab.evaluation.analysis.tiles import pictures_path
from cifarlab.experiments.seeds import seed_differences
from cifarlab.report.analyses import FILES, read_analysis, tiles_of
from cifarlab.runs.environment import Environment
from cifarlab.runs.folder import Run, recorded_run
from cifarlab.runs.ledger import count_openings
from cifarlab.runs.log import EpochRow, is_epoch, read_log
from cifarlab.runs.summary import Summary

# A folder with one of these files is a run's folder, perhaps of a removed run.
TRACES = ("config.yaml", "summary.json", "metrics.jsonl", "env.json")


@dataclass(frozen=True)
class Analyzed:
    """An analysis and its pictures.

    Attributes:
        analysis: The analysis.
        tiles: The hardest pictures, and the most confident errors. Empty if they were not saved.
    """

    analysis: AnalysisFile
    tiles: list[list[Image.Image]]


@dataclass(frozen=True)
class Finished:
    """A finished run, as read from its files.

    Attributes:
        folder: Folder of the run.
        name: Name of the run.
        summary: Content of `summary.json`.
        log: One row for each epoch.
        config: The configuration.
        env: Content of `env.json`.
        opened: How often this run has used the test set.
        analyses: Analyses by split.
    """

    folder: Path
    name: str
    summary: Summary
    log: list[EpochRow]
    config: dict[str, Plain]
    env: Environment
    opened: int
    analyses: dict[str, Analyzed] = field(default_factory=dict)

    @property
    def seed(self) -> int:
        """Return the seed of the run."""
        return self.summary.seed


@dataclass(frozen=True)
class RunGroup:
    """The runs of one name: seeds of one experiment.

    Attributes:
        name: The name, e.g. `ladder/03_sgd`.
        runs: The runs, sorted by seed.
        warnings: Warnings about the runs, one line each.
    """

    name: str
    runs: list[Finished]
    warnings: list[str] = field(default_factory=list)

    def values(self, key: str) -> list[float]:
        """Return a field of every run's summary; [] if it is None in any of them."""
        found = [getattr(run.summary, key) for run in self.runs]
        return [float(value) for value in found if value is not None] if None not in found else []

    def mean(self, key: str) -> float | None:
        """Return the mean of a field over the runs; None if `values` is empty."""
        values = self.values(key)
        return fmean(values) if values else None


@dataclass(frozen=True)
class Skipped:
    """A folder or file that is skipped, and the reason."""

    path: Path
    reason: str


def collect_runs(folder: Path) -> tuple[list[RunGroup], list[Skipped]]:
    """Read all runs at or below a folder, grouped by name.

    Returns:
        The groups, and the folders and files that cannot be read, with the reasons.

    Raises:
        ConfigError: There are no runs.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder")
    found: dict[str, list[Finished]] = defaultdict(list)
    skipped: list[Skipped] = []
    for path in sorted(_run_folders(folder)):
        try:
            run = read_run(path, _name(path, folder))
        except ConfigError as error:
            skipped.append(_skipped(path, error))
        else:
            analyses, damaged = _analyses(path, run.summary.chosen_epoch)
            found[run.name].append(replace(run, analyses=analyses))
            skipped += damaged
    if not found and not skipped:
        raise ConfigError(f"{folder}: no runs in it; `cifarlab train RECIPE --runs {folder}` makes one")
    groups = [
        RunGroup(name, sorted(runs, key=lambda run: run.seed), _odd(runs)) for name, runs in found.items()
    ]
    return groups, skipped


def read_run(folder: Path, name: str) -> Finished:
    """Read a finished run.

    Raises:
        ConfigError: The run is not finished, or a file is damaged.
    """
    run = Run(folder)
    config = run.plain_config()
    summary = run.finished()
    try:
        log = read_log(run.metrics_path)
    except OSError as error:
        raise ConfigError(f"{run.metrics_path}: cannot be read: {error.strerror or error}") from None
    if not (log or summary.soup is not None) or not all(map(is_epoch, log)):
        raise ConfigError(f"{run.metrics_path}: cannot be read: it holds no valid epoch")
    env = Environment.read(run.env_path)
    return Finished(folder, name, summary, log, config, env, count_openings(recorded_run(folder))["run"])


def _analyses(folder: Path, epoch: int) -> tuple[dict[str, Analyzed], list[Skipped]]:
    """Read a run's analyses by split; also return the damaged files."""
    found: dict[str, Analyzed] = {}
    damaged: list[Skipped] = []
    for split, name in FILES.items():
        if not (path := folder / name).exists():
            continue
        try:
            analysis = read_analysis(path, epoch)
        except ConfigError as error:
            damaged.append(_skipped(path, error))
            continue
        tiles: list[list[Image.Image]] = []
        try:
            tiles = tiles_of(path, analysis)
        except ConfigError as error:
            damaged.append(_skipped(pictures_path(path), error))
        found[split] = Analyzed(analysis, tiles)
    return found, damaged


def _skipped(path: Path, error: ConfigError) -> Skipped:
    return Skipped(path, " ".join(str(error).split()).removeprefix(f"{path}: "))


def _run_folders(folder: Path) -> Iterator[Path]:
    if any((folder / name).exists() for name in TRACES):
        yield folder
        return
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            yield from _run_folders(path)


def _name(path: Path, folder: Path) -> str:
    """Return the name of a run: `ladder/03_sgd` for `path` runs/ladder/03_sgd/0, `folder` runs."""
    name = path.parent.relative_to(folder) if folder in path.parents else Path()
    return name.as_posix() if name.parts else path.absolute().parent.name


def _odd(runs: list[Finished]) -> list[str]:
    """Return a warning if runs of one name differ beyond the seed."""
    first, *others = runs
    keys = {key for run in others for key in seed_differences(first.config, run.config)}
    if not keys:
        return []
    names = ", ".join(sorted(keys))
    return [f"its runs differ in {names}, not only in the seed, so their spread is not that of seeds"]
