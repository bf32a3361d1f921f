"""Training of teachers that do not exist yet.

A student is a run with a loss that reads a teacher, which is another run.
"""

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
    students: Sequence[tuple[Config, Run]], runs: Path, progress: TrainingProgress, *, fresh: bool = False
) -> None:
    """Train the teachers that students need and that do not exist.

    A teacher is trained on the students' data. If it needs a teacher that does not exist, that one is trained
    first. Nothing is done if all students are finished.

    Args:
        students: Configuration and run of each student. They have the same recipe and different seeds.
        runs: Folder of all runs.
        progress: Output for the user.
        fresh: Whether the students will be trained from the start even if they exist.

    Raises:
        ConfigError: The user made a mistake. Some mistakes in the students' configurations are found before a
            teacher is trained.
        Interrupted: As in `train_run`.
        Failure: As in `train_run`.
    """
    waiting = []
    for config, run in students:
        if not fresh:
            run.refuse_other(config)
        if config.teacher_outputs and (fresh or run.summary() is None):
            waiting.append((config, run))
    if waiting and missing_teachers(waiting[0][0].teacher, runs):
        _note_other_splits([config for config, _ in waiting], progress)
        _train_missing(waiting[0][0], runs, progress, {run.folder.resolve() for _, run in waiting})


def _train_missing(config: Config, runs: Path, progress: TrainingProgress, waiting: set[Path]) -> None:
    """Train the missing teachers of a configuration.

    Args:
        config: The configuration of a student.
        runs: Folder of all runs.
        progress: Output for the user.
        waiting: Folders of the runs that wait for these teachers. A teacher among them is an error, since a
            run cannot be its own teacher.
    """
    for name in missing_teachers(config.teacher, runs):
        teacher = _on_same_data(name, config)
        run = Run(
            runs / name / str(teacher.train.seed),
            recipe=name,
            name=name,
            recipe_files=read_recipe(name).files,
        )
        folder = run.folder.resolve()
        if folder in waiting:
            raise ConfigError(f"{run} cannot be its own teacher", ("teacher", "run"))
        if teacher.teacher_outputs:
            _train_missing(teacher, runs, progress, waiting | {folder})
        changed = differences(resolve(read_recipe(name)).identity(), teacher.identity())
        words = [f"{key}={json.dumps(value)}" for key, (_, value) in changed.items()]
        data = f", on this run's data ({', '.join(words)})" if words else ""
        progress.note(f"training the teacher first: {name}, {teacher.train.epochs} epochs{data}")
        train_run(teacher, run, progress=progress)


def _note_other_splits(students: Sequence[Config], progress: TrainingProgress) -> None:
    """Print a note if the students have different validation pictures.

    The teacher then has the validation pictures of the first student, and is trained on some validation
    pictures of the others.
    """
    first = students[0]
    if not first.data.val or len({student.split_seed for student in students}) == 1:
        return
    if splits.read_data(first.data, "val") is None:  # Else all seeds have these validation pictures.
        progress.note(
            f"the teacher has the validation pictures of seed {first.train.seed} and trains on some of those "
            f"of the other seeds; data.split_seed={first.split_seed} gives all seeds the same ones"
        )


def _on_same_data(name: str, config: Config) -> Config:
    """Resolve a teacher's recipe with its student's data and split.

    With the same split, neither of them trains on validation pictures of the other.

    Args:
        name: The teacher's recipe.
        config: The student's configuration.

    Raises:
        ConfigError: The splits cannot be made equal, because teacher and student store pictures at different
            sizes. The split is drawn by a hash of the stored pixels.
    """
    recipe, overrides = read_recipe(name), _same_data(config)
    teacher = resolve(recipe, overrides)
    # Only if it has an effect. Without the override the teacher is a run of its unchanged recipe.
    is_drawn = config.data.val or config.data.limit is not None
    if is_drawn and teacher.split_seed != config.split_seed:
        overrides.append(f"data.split_seed={config.split_seed}")
    if config.data.val and _is_split_by_size(config.data, teacher.data):
        if config.data.store_size is None:
            ours, theirs = kept_size(config.data), kept_size(teacher.data)
            raise ConfigError(
                f"the teacher {name} would train on validation pictures of this run: it stores pictures at "
                f"{theirs} px, this run at {ours} px, and the split depends on the stored pictures; set "
                f"data.store_size={max(ours, theirs)}",
                ("data", "store_size"),
            )
        overrides.append(f"data.store_size={config.data.store_size}")
    return resolve(recipe, overrides)


def _is_split_by_size(ours: DataConfig, theirs: DataConfig) -> bool:
    """Tell whether the stored sizes give student and teacher different validation pictures.

    Validation pictures are drawn by a hash of the stored pixels, which depend on `data.store_size`.
    `ours` and `theirs` are the sections `data` of the student and the teacher.
    """
    if ours.dataset.part.traits.split_as_published:
        return False
    if (ours.store_size, kept_size(ours)) == (theirs.store_size, kept_size(theirs)):
        return False
    if splits.read_data(ours, "val") is not None:  # Validation pictures are not drawn from the train part.
        return False
    one, other = splits.read_data(ours, "train"), splits.read_data(theirs, "train")
    assert one is not None, "every data set has a train part"
    assert other is not None, "every data set has a train part"
    return one.fingerprint() != other.fingerprint()


def _same_data(config: Config) -> list[str]:
    """Return overrides that give a teacher its student's data and device.

    `config` is the student's configuration.
    """
    assert config.teacher is not None
    data = config.dump()["data"]
    kept = ("dataset", "root", "val", "limit", "classes", "skip_broken")
    overrides = [f"data.{key}={json.dumps(data[key])}" for key in kept]
    imports = f"imports={json.dumps(list(config.imports))}"
    return [*overrides, imports, f"train.device={config.train.device}", f"train.seed={config.teacher.seed}"]
