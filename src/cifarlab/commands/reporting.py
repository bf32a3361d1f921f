"""`cifarlab report`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from cifarlab.commands.shared import Imports, app, refuse_place


@app.command()
def report(
    runs: Annotated[Path, typer.Argument(help="The folder of all runs, or part of it.")] = Path("runs"),
    out: Annotated[Path, typer.Option(help="The folder for the page and its pictures.")] = Path("report"),
    title: Annotated[str | None, typer.Option(help="The page's heading.")] = None,
    against: Annotated[
        str | None, typer.Option(help="The name that all others are compared with; default: the first.")
    ] = None,
    imports: Imports = None,
) -> None:
    """One self-contained HTML page of all runs; its charts and tables beside it, for a paper."""
    from cifarlab.report.page import build

    refuse_place(out, "--out")
    page, skipped = build(runs, out, title, against, imports or ())
    for each in skipped:
        print(f"left out: {each.path}: {each.reason}", file=sys.stderr)
    print(page.resolve())
