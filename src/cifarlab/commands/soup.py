"""`cifarlab soup`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from cifarlab.commands.shared import (
    AsJson,
    Device,
    Imports,
    Root,
    RunFolders,
    RunsFolder,
    app,
    print_table,
    print_warnings,
)


@app.command()
def soup(
    ingredients: RunFolders,
    name: Annotated[str, typer.Option(help="Name of the new run.")],
    runs: RunsFolder = Path("runs"),
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start over: remove what the soup's folder holds.")
    ] = False,
    device: Device = "auto",
    root: Root = None,
    imports: Imports = None,
    as_json: AsJson = False,
) -> None:
    """Average the weights of greedily selected runs.

    Runs are selected by the validation accuracy of the average, as in the greedy soup of Wortsman et al.
    (2022). The result is saved as a new run.
    """
    from cifarlab.evaluation.soup import make_soup
    from cifarlab.runs.folder import Run
    from cifarlab.runs.naming import run_name

    name = run_name(name)
    # A soup has no seed. It is saved as seed 0, where `teacher.run=NAME` looks for a run.
    made = Run(runs / name / "0", recipe="soup", name=name)
    summary = make_soup(ingredients, made, device=device, root=root, fresh=fresh, imports=imports or ())
    if as_json:
        print(json.dumps({"run": str(made), **summary.to_json()}, indent=2))
        return
    print_warnings(summary.warnings)
    assert summary.soup is not None
    rows = [
        (each.run, f"{each.val_top1:.2%}", f"{each.soup_val_top1:.2%}", "yes" if each.kept else "no")
        for each in summary.soup.ingredients
    ]
    print_table(("run", "top-1 on val", "soup with it", "kept"), rows)
    print(
        f"{made}: val {summary.val_top1:.2%} (chosen on val: optimistic), at the cost of one model; "
        f"to score on test: cifarlab eval {made} --split test"
    )
