"""Finding the runs that `teacher.run` names, and loading them as a `Teacher`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from cifarlab.config import Config, TeacherConfig, recipes
from cifarlab.core.device import Precision, pick_precision
from cifarlab.core.errors import ConfigError, did_you_mean
from cifarlab.core.files import file_digest
from cifarlab.models.sizes import check_sizes
from cifarlab.runs.folder import Run
from cifarlab.runs.model import Trained, best_of, load_trained, refuse_other_classes
from cifarlab.runs.naming import finished_names
from cifarlab.teachers.teacher import Member, Teacher

TEACHER_RUN = ("teacher", "run")


def find_teacher(name: str, seed: int, runs: Path) -> Path:
    """Find the checkpoint of a teacher.

    Args:
        name: Path of a checkpoint, path of a run's folder, or name of a run.
        seed: Seed of the run, if `name` is the name of a run.
        runs: Folder of all runs.

    Raises:
        ConfigError: There is no such checkpoint, or its run is not finished. If the command that trains the
            teacher is known, the message contains it.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path
    for folder in (path, path / str(seed), runs / name / str(seed)):
        run = Run(folder)
        if run.summary_path.is_file():
            return best_of(folder)
        if run.started:
            raise ConfigError(
                f"{run} is not finished; resume it with the command that started it", TEACHER_RUN
            )
        if run.best_path.is_file():
            raise ConfigError(
                f"{folder} is not a complete run; name its checkpoint, {run.best_path}", TEACHER_RUN
            )
    missing = f"no run {name!r} with seed {seed} in {runs}"
    if fix := _command(name, seed, runs):
        raise ConfigError(f"{missing}; {fix}", TEACHER_RUN)
    if seeds := sorted(p.parent.name for p in (runs / name).glob("*/summary.json")):
        raise ConfigError(
            f"{missing}, only with {', '.join(seeds)}; set teacher.seed={seeds[0]}", TEACHER_RUN
        )
    known = finished_names(runs) | set(recipes.recipe_names())
    hint = did_you_mean(name, known) or "name a run's folder or a checkpoint"
    raise ConfigError(f"{missing}; {hint}", TEACHER_RUN)


def missing_teachers(teacher: TeacherConfig | None, runs: Path) -> list[str]:
    """Return the names in `teacher.run` that are recipes without a finished run."""
    missing = []
    for name in teacher.run if teacher else ():
        try:
            find_teacher(name, teacher.seed if teacher else 0, runs)
        except ConfigError:
            if name in recipes.recipe_names():
                missing.append(name)
    return missing


def _command(name: str, seed: int, runs: Path) -> str | None:
    """Return advice for training a missing teacher, with the command.

    The result is None if `name` names no recipe.
    """
    if name not in recipes.recipe_names():
        return None
    options = [f"train.seed={seed}"] if seed else []
    options += [] if runs == Path("runs") else [f"--runs {runs}"]
    return f"train it with `{' '.join(['cifarlab train', name, *options])}`, or add --train-teacher"


def load_teacher(config: Config, classes: Sequence[str], device: torch.device, runs: Path) -> Teacher:
    """Load the teacher of a configuration.

    Args:
        config: The configuration of the student. It must have the section `teacher`.
        classes: Names of the student's classes.
        device: The device to load the teacher on.
        runs: Folder of all runs.

    Raises:
        ConfigError: The teacher is missing or does not fit the student.
    """
    section = config.teacher
    assert section is not None
    paths = [find_teacher(name, section.seed, runs) for name in section.run]
    if len(set(map(Path.resolve, paths))) < len(paths):
        raise ConfigError("names a run twice; name each run once", TEACHER_RUN)
    members = [_load(path, section, classes, device, config.imports) for path in paths]
    if "stages" in config.teacher_outputs:
        if len(members) > 1:
            raise ConfigError(
                "feature maps of several teachers cannot be averaged; name one run", TEACHER_RUN
            )
        if not getattr(members[0].trained.model.backbone, "stage_names", ()):
            raise ConfigError(
                f"{paths[0]}: its backbone declares no stages, so a loss cannot read its feature maps",
                TEACHER_RUN,
            )
    return Teacher(members, config.teacher_outputs)


def _load(
    path: Path, section: TeacherConfig, classes: Sequence[str], device: torch.device, imports: Sequence[str]
) -> Member:
    try:
        trained = load_trained(
            path, device=str(device), imports=imports, fix="name each under the recipe's imports"
        )
        refuse_other_classes(path, trained.model.classes, classes)
    except ConfigError as error:
        raise ConfigError(str(error), TEACHER_RUN) from None
    size = section.image_size or trained.model.image_size
    if section.image_size:
        check_sizes(trained.model, trained.saved.model.backbone.name, [size], ("teacher", "image_size"))
    precision = _precision(section.precision, trained, device)
    return Member(trained, str(path), file_digest(path), size, precision)


def _precision(asked: str, trained: Trained, device: torch.device) -> Precision:
    if asked == "own":
        return trained.precision
    try:
        return pick_precision(asked, device)
    except ConfigError as error:
        raise ConfigError(error.message, ("teacher", "precision")) from None
