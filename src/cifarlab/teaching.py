"""Training the teachers that a student is missing."""

from __future__ import annotations

import json
from pathlib import Path

from cifarlab.config import Config
from cifarlab.progress import TrainingProgress
from cifarlab.recipes import read, resolve
from cifarlab.registry import ConfigError
from cifarlab.run import Run
from cifarlab.teachers import missing_teachers
from cifarlab.train import train


def train_teachers(
    config: Config, runs: Path, progress: TrainingProgress, students: tuple[str, ...] = ()
) -> None:
    """Train the recipes that a student's teachers are missing, and theirs, on the student's data.

    runs: the folder of all runs. students: recipes that wait for this one. Raises ConfigError where a recipe
    is its own teacher, and as `train` does.
    """
    for name in missing_teachers(config.teacher, runs):
        if name in students:
            raise ConfigError(f"{name} cannot be its own teacher", ("teacher", "run"))
        teacher = resolve(read(name), _same_data(config))
        train_teachers(teacher, runs, progress, (*students, name))
        progress.note(f"the teacher first: {name}")
        train(teacher, Run(runs / name / str(teacher.train.seed), name, name), progress)


def _same_data(config: Config) -> list[str]:
    """Overrides that give a teacher its student's classes, pictures and split, on the same device."""
    assert config.teacher is not None
    data = config.dump()["data"]
    kept = ("dataset", "root", "val", "limit", "classes", "skip_broken")
    overrides = [f"data.{key}={json.dumps(data[key])}" for key in kept]
    imports = f"imports={json.dumps(list(config.imports))}"
    return [*overrides, imports, f"train.device={config.train.device}", f"train.seed={config.teacher.seed}"]
