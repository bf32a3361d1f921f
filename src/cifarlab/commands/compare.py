"""`cifarlab compare`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from cifarlab.commands.shared import (
    AT_ONCE,
    AsJson,
    AtOnce,
    Imports,
    MetricOption,
    RunsFolder,
    Seeds,
    app,
    print_comparison,
    training_progress,
)


@app.command()
def compare(
    what: Annotated[
        list[str],
        typer.Argument(
            help="Recipes or names of runs; the first is the reference. Then overrides, key=value."
        ),
    ],
    seeds: Seeds = None,
    metric: MetricOption = "val",
    at_once: AtOnce = AT_ONCE,
    runs: RunsFolder = Path("runs"),
    imports: Imports = None,
    as_json: AsJson = False,
) -> None:
    """Compare recipes or runs over seeds, with intervals.

    With --seeds, missing runs are trained first. Shows mean accuracies and their differences, with confidence
    intervals, and the durations of the runs.
    """
    from cifarlab.experiments.compare import run_comparison

    overrides = [text for text in what if "=" in text]
    names = [text for text in what if "=" not in text]
    progress = training_progress(as_json)
    found = run_comparison(names, runs, seeds, overrides, metric, progress, at_once, imports=imports or ())
    if as_json:
        print(json.dumps(found.to_json(), indent=2))
        return
    print_comparison(found)
