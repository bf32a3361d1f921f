"""Refits: finished runs trained again with their validation pictures included."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cifarlab.config.recipes import resolve
from cifarlab.core.errors import ConfigError
from cifarlab.evaluation.sealed import read_splits
from cifarlab.runs.environment import Environment
from cifarlab.runs.folder import Run, recorded_run
from cifarlab.runs.model import load_trained, saved_recipe
from cifarlab.runs.naming import run_name
from cifarlab.runs.summary import Summary
from cifarlab.training.loop import train_run
from cifarlab.training.progress import TrainingProgress


def refit(
    folder: Path | str,
    *,
    name: str | None = None,
    progress: TrainingProgress | None = None,
    imports: Sequence[Path | str] = (),
) -> tuple[Run, Summary]:
    """Train a finished run again on all training pictures.

    The new run ends at the epoch that `train.select` chose in the finished run. Each epoch has the same
    learning rate as in the finished run: the schedule is cut at this epoch, not shortened to it. No
    validation pictures are left: only the test set can measure the result.

    Args:
        folder: Folder of the finished run.
        name: Name of the new run. Default: the old name followed by `_refit`.
        progress: Receives the progress of the training.
        imports: Python files or modules that register the run's custom parts.

    Returns:
        The new run and its summary.

    Raises:
        ConfigError: The run is not finished, is a soup, had its epoch chosen on test, held no pictures out,
            or was trained with `data.limit`; or its data have changed.
    """
    run = recorded_run(folder)
    new_name = run_name(f"{run.name}_refit" if name is None else name)
    summary, plain = run.summary(), run.plain_config()
    if summary is None:
        raise ConfigError(f"{run} is not finished; resume it with the command that started it")
    if summary.soup is not None:
        raise ConfigError(f"{run} is a soup and was not trained itself; refit its ingredients")
    if summary.chosen_on == "test":
        raise ConfigError(f"{run} chose its epoch on test; a refit would inherit that choice")
    if not plain["data"]["val"] or "val" in Environment.read(run.env_path).data_fingerprint:
        raise ConfigError(f"{run} held no training pictures out: it was trained on all of them")
    if plain["data"].get("limit") is not None:
        raise ConfigError(
            f"{run} was trained with data.limit, which a refit would keep; train it without the limit"
        )
    # Raises if the data have changed since the training.
    read_splits(run.folder, load_trained(run.folder, imports=imports))
    recipe = saved_recipe(run, imports=imports)
    kept = ["data.val=0", "train.select=last", "train.patience=null", f"train.stop={summary.chosen_epoch}"]
    again = Run(
        run.runs / new_name / run.folder.absolute().name,
        recipe=recipe.name,
        name=new_name,
        recipe_files=recipe.files,
    )
    return again, train_run(resolve(recipe, kept), again, progress=progress)
