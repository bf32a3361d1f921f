"""Training the teachers that a student is missing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from cifarlab.config import Config, DataConfig
from cifarlab.config.merge import differences
from cifarlab.config.recipes import read_recipe, resolve
from cifarlab.core.errors import ConfigError
from cifarlab.data import splits
from cifarlab.data.readers import kept_size
from cifarlab.runs.folder import Run
from cifarlab.teachers import missing_teachers
from cifarlab.training.loop import train_run
from cifarlab.training.progress import TrainingProgress


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
    if waiting and missing_teachers(waiting[0][0].teacher, runs):
        _note_other_splits([config for config, _ in waiting], progress)
        _train_missing(waiting[0][0], runs, progress, {run.folder.resolve() for _, run in waiting})


def _train_missing(config: Config, runs: Path, progress: TrainingProgress, waiting: set[Path]) -> None:
    """waiting: the folders of the runs that wait for these teachers."""
    for name in missing_teachers(config.teacher, runs):
        teacher = _on_same_data(name, config)
        run = Run(runs / name / str(teacher.train.seed), name, name, read_recipe(name).files)
        folder = run.folder.resolve()
        if folder in waiting:
            raise ConfigError(f"{run} cannot be its own teacher", ("teacher", "run"))
        if teacher.lessons:
            _train_missing(teacher, runs, progress, waiting | {folder})
        changed = differences(resolve(read_recipe(name)).identity(), teacher.identity())
        words = [f"{key}={json.dumps(value)}" for key, (_, value) in changed.items()]
        data = f", on this run's data ({', '.join(words)})" if words else ""
        progress.note(f"the teacher first: {name}, {teacher.train.epochs} epochs{data}")
        train_run(teacher, run, progress)


def _note_other_splits(students: Sequence[Config], progress: TrainingProgress) -> None:
    """Say that one teacher cannot share the splits of students that are split in several ways."""
    first = students[0]
    if first.data.val and len({student.split_seed for student in students}) > 1:
        progress.note(
            f"the teacher shares the validation pictures of seed {first.train.seed} alone, and trains on "
            f"some of the other seeds'; data.split_seed={first.split_seed} would give all seeds the same ones"
        )


def _on_same_data(name: str, config: Config) -> Config:
    """Resolve the recipe of a teacher on its student's data, so that neither trains on what validates one.

    Raises ConfigError where the sizes at which pictures are kept do not allow one split.
    """
    recipe, overrides = read_recipe(name), _same_data(config)
    teacher = resolve(recipe, overrides)
    # Not where it changes nothing: the teacher is then a run of its recipe as it stands.
    is_drawn = config.data.val or config.data.limit is not None
    if is_drawn and teacher.split_seed != config.split_seed:
        overrides.append(f"data.split_seed={config.split_seed}")
    if config.data.val and _is_split_by_size(config.data, teacher.data):
        if config.data.store_size is None:
            ours, theirs = kept_size(config.data), kept_size(teacher.data)
            raise ConfigError(
                f"the teacher {name} would train on pictures that validate this run: it keeps them at "
                f"{theirs} px, this run at {ours}, and they are split by what is kept; say "
                f"data.store_size={max(ours, theirs)}",
                ("data", "store_size"),
            )
        overrides.append(f"data.store_size={config.data.store_size}")
    return resolve(recipe, overrides)


def _is_split_by_size(ours: DataConfig, theirs: DataConfig) -> bool:
    """Tell whether one data set is split in two ways because its pictures are kept at two sizes."""
    if ours.dataset.part.traits.split_as_published:
        return False
    if (ours.store_size, kept_size(ours)) == (theirs.store_size, kept_size(theirs)):
        return False
    if splits.read_data(ours, "val") is not None:  # Nothing is drawn from train.
        return False
    one, other = splits.read_data(ours, "train"), splits.read_data(theirs, "train")
    assert one is not None and other is not None, "every data set has a train part"
    return one.fingerprint() != other.fingerprint()


def _same_data(config: Config) -> list[str]:
    """List overrides that give a teacher its student's classes and pictures, on the same device."""
    assert config.teacher is not None
    data = config.dump()["data"]
    kept = ("dataset", "root", "val", "limit", "classes", "skip_broken")
    overrides = [f"data.{key}={json.dumps(data[key])}" for key in kept]
    imports = f"imports={json.dumps(list(config.imports))}"
    return [*overrides, imports, f"train.device={config.train.device}", f"train.seed={config.teacher.seed}"]
