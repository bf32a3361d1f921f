"""`cifarlab ladder`."""

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
    Overrides,
    RunsFolder,
    Seeds,
    app,
    print_comparison,
    print_rows,
    training_progress,
)


@app.command()
def ladder(
    prefix: Annotated[str, typer.Argument(help="Common beginning of the recipes' names, e.g. ladder/")],
    overrides: Overrides = None,
    drop_one: Annotated[
        bool, typer.Option("--drop-one", help="Also train the top recipe without each change in turn.")
    ] = False,
    seeds: Seeds = None,
    metric: MetricOption = "val",
    at_once: AtOnce = AT_ONCE,
    runs: RunsFolder = Path("runs"),
    imports: Imports = None,
    as_json: AsJson = False,
) -> None:
    """Measure what each change of a series of recipes adds.

    A ladder is a series of recipes. Each adds a change to the previous one, and is compared with it.
    --drop-one also trains the last recipe without each change in turn.
    """
    from cifarlab.experiments.ladder import run_ladder
    from cifarlab.experiments.records import DroppedChange, LadderComparison

    progress = training_progress(as_json)
    words = overrides or []
    found = run_ladder(prefix, runs, seeds, words, metric, drop_one, progress, at_once, imports=imports or ())
    if as_json:
        print(json.dumps(found.to_json(), indent=2))
        return
    print_comparison(found)
    if not isinstance(found, LadderComparison):
        return
    rows = [row for row in found.drop_one if isinstance(row, DroppedChange)]
    if rows:
        top = found.arms[-1].name
        print(f"\n{top} without each change; the difference is the gain from the change:")
        print_rows([row.changed(name=row.left_out) for row in rows], found.metric)
    for row in found.drop_one:
        if not isinstance(row, DroppedChange):
            print(f"with {row.left_out}: cannot be left out: {row.kept}")
        elif apart := row.difference:
            print(f"with {row.left_out}: {apart.verdict}" + (" than without" if apart.shown else ""))
