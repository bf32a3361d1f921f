"""`cifarlab train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from cifarlab.commands.shared import Overrides, RecipeName, app


@app.command()
def train(
    recipe: RecipeName,
    overrides: Overrides = None,
    name: Annotated[str | None, typer.Option(help="The runs' name; default: the recipe's.")] = None,
    runs: Annotated[Path, typer.Option(help="The folder of all runs.")] = Path("runs"),
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Train seeds 0 to N-1, one after the other.")
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start over: remove what the run's folder holds.")
    ] = False,
    train_teacher: Annotated[
        bool, typer.Option("--train-teacher", help="Train the teacher first, if it is not there.")
    ] = False,
) -> None:
    """Train a recipe, or go on where it was left; a finished run says so."""
    from cifarlab.doctor import warnings_before
    from cifarlab.progress import TrainingProgress
    from cifarlab.recipes import read, resolve
    from cifarlab.registry import ConfigError
    from cifarlab.run import Run
    from cifarlab.teaching import train_teachers
    from cifarlab.train import train as train_run

    found = read(recipe)
    folder = runs / _run_name(found.name if name is None else name)
    configs = [resolve(found, overrides or ())]
    if seeds is not None:
        if configs[0].train.seed != resolve(found).train.seed:
            seed = configs[0].train.seed
            raise ConfigError(
                f"--seeds {seeds} and train.seed={seed} contradict each other; give one of them"
            )
        configs = [resolve(found, [*(overrides or ()), f"train.seed={seed}"]) for seed in range(seeds)]
    progress = TrainingProgress()
    students = [Run(folder / str(config.train.seed), found.name, name or found.name) for config in configs]
    if train_teacher:
        train_teachers(list(zip(configs, students, strict=True)), runs, progress, fresh)
    summaries = []
    for config, run in zip(configs, students, strict=True):
        if len(configs) > 1:
            progress.note(f"seed {config.train.seed} of 0 to {len(configs) - 1}")
        summaries.append(train_run(config, run, progress, fresh, warnings_before(config)))
    if len(summaries) > 1:
        _print_over_seeds(folder, summaries)


def _run_name(name: str) -> Path:
    from cifarlab.registry import ConfigError

    path = Path(name)
    if not path.parts or path.is_absolute() or ".." in path.parts:
        raise ConfigError(f"--name {name!r}: a name, not a path; --runs says where all runs lie")
    if not name.isprintable() or max(map(len, path.parts)) > 200:
        raise ConfigError(f"--name {name[:40]!r}: too long, or not printable")
    return path


def _print_over_seeds(folder: Path, summaries: list[dict[str, Any]]) -> None:
    from statistics import mean, stdev

    for key in ("val_top1", "test_top1"):
        values = [summary[key] for summary in summaries if summary[key] is not None]
        if len(values) == len(summaries):
            optimistic = (
                " (chosen on test: optimistic)"
                if summaries[0]["chosen_on"] == key.partition("_")[0] == "test"
                else ""
            )
            spread = f"standard deviation {100 * stdev(values):.2f} points over {len(values)} seeds"
            print(f"{folder}: {key.replace('_', ' ')} {mean(values):.2%} mean, {spread}{optimistic}")
