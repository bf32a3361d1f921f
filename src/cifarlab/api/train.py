"""`cifarlab.train`, the Python form of the command `train`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cifarlab.api.overrides import override_texts
from cifarlab.config.merge import refuse_twice
from cifarlab.config.recipes import read_recipe, resolve
from cifarlab.core.plain import Plain
from cifarlab.doctor import warnings_before
from cifarlab.runs.folder import Run
from cifarlab.runs.naming import run_name
from cifarlab.training.loop import train_run
from cifarlab.training.missing_teachers import train_teachers
from cifarlab.training.progress import TrainingProgress


def train(
    recipe: str | Path,
    overrides: Mapping[str, Plain] | None = None,
    *,
    name: str | None = None,
    runs: str | Path = "runs",
    fresh: bool = False,
    train_teacher: bool = False,
    show_progress: bool = False,
) -> Run:
    """Train a recipe, or resume its run.

    A finished run is not trained again.

    Args:
        recipe: Name of a recipe (`cifarlab list` shows them), or path of a YAML file.
        overrides: Options that differ from the recipe, by path: {"train.epochs": 20, "optim.lr": 0.1}.
        name: Name of the run. None: the recipe's.
        runs: Folder of all runs. The run lies in `runs`/`name`/`train.seed`.
        fresh: Start over: remove the content of the run's folder.
        train_teacher: Train the teacher of a distillation first, unless its run is finished.
        show_progress: Print the progress, as the command line does.

    Returns:
        The finished run. `evaluate`, `load` and `predict` accept it like a folder.

    Raises:
        ConfigError: An option is wrong, or the folder holds a run of another configuration.
        Failure: The loss is no longer finite, or the disk is full (`cifarlab.core.errors`).
        Interrupted: SIGINT or SIGTERM stopped the run (`cifarlab.runs.signals`). The run is saved, and the
            same call resumes it.

    Example:
        >>> run = cifarlab.train("demo", {"train.epochs": 2})
        >>> run.summary().epochs
        2
    """
    texts = override_texts(overrides)
    refuse_twice(texts)
    found = read_recipe(str(recipe))
    config = resolve(found, texts)
    name = run_name(found.name if name is None else name)
    run = Run(
        Path(runs) / name / str(config.train.seed), recipe=found.name, name=name, recipe_files=found.files
    )
    progress = TrainingProgress(quiet=not show_progress)
    if train_teacher:
        train_teachers([(config, run)], Path(runs), progress, fresh=fresh)
    train_run(config, run, progress=progress, fresh=fresh, warnings=tuple(warnings_before(config)))
    return run
