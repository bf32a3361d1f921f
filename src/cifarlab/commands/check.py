"""`cifarlab check`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from cifarlab.commands.shared import AsJson, Overrides, RecipeName, RunsFolder, app


@app.command()
def check(
    recipe: RecipeName,
    overrides: Overrides = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="Also train on a few pictures, and check the teacher.")
    ] = False,
    runs: RunsFolder = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Check a recipe before training, and estimate its cost.

    Each finding comes with a fix. The exit status is 1 if any finding is an error.
    """
    from cifarlab.config.recipes import read_recipe, resolve
    from cifarlab.doctor import diagnose

    found = read_recipe(recipe)
    config = resolve(found, overrides or ())
    diagnosis = diagnose(config, deep=deep, runs=runs, say=lambda line: print(line, file=sys.stderr))
    if as_json:
        print(json.dumps(diagnosis.record().to_json(), indent=2))
    else:
        for finding in diagnosis.findings:
            print(f"{finding.severity} {finding.id}: {finding.reason}\n    {finding.fix}")
        if not diagnosis.findings:
            print(f"{found.name}: no problems found")
        for line in diagnosis.left_out:
            print(f"left out: {line}")
        if diagnosis.estimate:
            print(f"{found.name} takes {diagnosis.estimate}")
    if diagnosis.has_errors:
        raise typer.Exit(1)
