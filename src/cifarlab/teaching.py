"""Training the teachers that a student is missing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from cifarlab.config import Config
from cifarlab.merging import differences
from cifarlab.progress import TrainingProgress
from cifarlab.recipes import read, resolve
from cifarlab.registry import ConfigError
from cifarlab.run import Run
from cifarlab.teachers import missing_teachers
from cifarlab.train import train


def train_teachers(
    students: Sequence[tuple[Config, Run]], runs: Path, progress: TrainingProgress, fresh: bool = False
) -> None:
    """Train the recipes that students' teachers are missing, and theirs, on the student's data.

    students: runs of one recipe, at several seeds. runs: the folder of all runs. fresh: the students start
    over. Raises ConfigError where a student could not be trained after, as far as can be known before, and as
    `train` does.
    """
    waiting = []
    for config, run in students:
        if not fresh:
            run.refuse_other(config)
        if config.lessons and (fresh or run.summary() is None):
            waiting.append((config, run))
    if waiting:
        _train_missing(waiting[0][0], runs, progress, {run.folder.resolve() for _, run in waiting})


def _train_missing(config: Config, runs: Path, progress: TrainingProgress, waiting: set[Path]) -> None:
    """waiting: the folders of the runs that wait for these teachers."""
    for name in missing_teachers(config.teacher, runs):
        teacher = resolve(read(name), _same_data(config))
        run = Run(runs / name / str(teacher.train.seed), name, name)
        folder = run.folder.resolve()
        if folder in waiting:
            raise ConfigError(f"{run} cannot be its own teacher", ("teacher", "run"))
        if teacher.lessons:
            _train_missing(teacher, runs, progress, waiting | {folder})
        changed = differences(resolve(read(name)).identity(), teacher.identity())
        words = [f"{key}={json.dumps(value)}" for key, (_, value) in changed.items()]
        data = f", on this run's data ({', '.join(words)})" if words else ""
        progress.note(f"the teacher first: {name}, {teacher.train.epochs} epochs{data}")
        train(teacher, run, progress)


def _same_data(config: Config) -> list[str]:
    """Overrides that give a teacher its student's classes, pictures and split, on the same device."""
    assert config.teacher is not None
    data = config.dump()["data"]
    kept = ("dataset", "root", "val", "limit", "classes", "skip_broken")
    overrides = [f"data.{key}={json.dumps(data[key])}" for key in kept]
    imports = f"imports={json.dumps(list(config.imports))}"
    return [*overrides, imports, f"train.device={config.train.device}", f"train.seed={config.teacher.seed}"]
