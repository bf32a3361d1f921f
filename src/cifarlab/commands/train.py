"""`cifarlab train`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cifarlab.commands.shared import Overrides, RecipeName, RunsFolder, app

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cifarlab.runs.folder import Run


@app.command()
def train(
    recipe: RecipeName,
    overrides: Overrides = None,
    name: Annotated[str | None, typer.Option(help="Name of the runs; default: the recipe's.")] = None,
    runs: RunsFolder = Path("runs"),
    seeds: Annotated[
        int | None,
        typer.Option(min=1, help="Train seeds 0 to N-1, one after the other, or several --at-once."),
    ] = None,
    at_once: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Number of runs to train at the same time, each in a process with its share of the cores; "
            "default: one on a CPU; on a GPU as many as fit its memory, at most one per core.",
        ),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start over: remove what the run's folder holds.")
    ] = False,
    train_teacher: Annotated[
        bool, typer.Option("--train-teacher", help="Train missing teachers first.")
    ] = False,
) -> None:
    """Train a recipe, or resume a run.

    To resume an interrupted run, repeat the command. A finished run is not trained again; --fresh starts it
    over.
    """
    from cifarlab.config.recipes import read_recipe, resolve
    from cifarlab.doctor import warnings_before
    from cifarlab.experiments.idle_options import refuse_idle_at_once
    from cifarlab.runs.folder import Run
    from cifarlab.runs.naming import run_name
    from cifarlab.training.missing_teachers import train_teachers
    from cifarlab.training.progress import TrainingProgress
    from cifarlab.training.several_runs import Task, train_all, usual_at_once

    refuse_idle_at_once(at_once or 1, seeds)
    found = read_recipe(recipe)
    name = run_name(found.name if name is None else name)
    folder = runs / name
    configs = [resolve(found, overrides or ())]
    if seeds is not None:
        # Imported here, because this import loads scipy's distributions, which takes a second.
        from cifarlab.experiments.compare import refuse_another_seed

        refuse_another_seed(seeds, overrides or ())
        configs = [resolve(found, [*(overrides or ()), f"train.seed={seed}"]) for seed in range(seeds)]
    progress = TrainingProgress()
    students = [
        Run(folder / str(config.train.seed), recipe=found.name, name=name, recipe_files=found.files)
        for config in configs
    ]
    if train_teacher:
        train_teachers(list(zip(configs, students, strict=True)), runs, progress, fresh=fresh)

    def tasks() -> Iterator[Task]:
        for config, run in zip(configs, students, strict=True):
            if len(configs) > 1:
                progress.note(f"seed {config.train.seed} of 0 to {len(configs) - 1}")
            yield Task(config, run, tuple(warnings_before(config)))

    most = min(at_once or usual_at_once(configs[0]), len(configs))
    train_all(tasks(), most, progress, fresh=fresh, by_memory=at_once is None)
    if len(configs) > 1:
        _print_over_seeds(folder, students)


def _print_over_seeds(folder: Path, students: list[Run]) -> None:
    from cifarlab.experiments.statistics import estimate
    from cifarlab.runs.ledger import count_openings

    summaries = [run.finished() for run in students]
    for split in ("val", "test"):
        values = [top1 for summary in summaries if (top1 := summary.top1(split)) is not None]
        if len(values) == len(summaries):
            optimistic = " (chosen on test: optimistic)" if summaries[0].chosen_on == split == "test" else ""
            found = estimate(values)
            interval = f"95 % interval {found.low:.2%} to {found.high:.2%}"
            spread = f"standard deviation {100 * found.sd:.2f} points over {found.n} seeds"
            what = f"{split} top1 {found.mean:.2%} mean"
            print(f"{folder}: {what}, {interval}, {spread}{optimistic}")
            if split == "test":
                opened = count_openings(students[0])["runs"]
                print(f"the test set has been opened {opened:,} x for the runs in {students[0].runs}")
