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
    refuse_idle_at_once,
    refuse_idle_overrides,
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

    Each recipe of the ladder is compared with the one below it. --drop-one also trains the top one without
    each change.
    """
    from cifarlab.experiments.ladder import run_ladder

    refuse_idle_overrides(overrides or [], seeds)
    refuse_idle_at_once(at_once, seeds)
    progress = training_progress(as_json)
    words = overrides or []
    found = run_ladder(prefix, runs, seeds, words, metric, drop_one, progress, at_once, imports or ())
    if as_json:
        print(json.dumps(found, indent=2))
        return
    print_comparison(found)
    if not drop_one:
        return
    rows = [row for row in found["drop_one"] if "kept" not in row]
    if rows:
        top = found["arms"][-1]["name"]
        print(f"\n{top} without each change; the differences are what the change is worth there:")
        print_rows([{**row, "name": row["left_out"]} for row in rows], found["metric"])
    for row in found["drop_one"]:
        said = row["difference"]["verdict"] if "kept" not in row else f"cannot be left out: {row['kept']}"
        shown = " than without" if "kept" not in row and row["difference"]["shown"] else ""
        print(f"with {row['left_out']}: {said}{shown}")
