"""`cifarlab report`: an HTML page of all runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from cifarlab.commands.shared import Imports, app, refuse_place


@app.command()
def report(
    runs: Annotated[Path, typer.Argument(help="The folder of all runs, or a folder in it.")] = Path("runs"),
    out: Annotated[Path, typer.Option(help="The folder for the page and its pictures.")] = Path("report"),
    title: Annotated[str | None, typer.Option(help="The page's heading.")] = None,
    against: Annotated[
        str | None,
        typer.Option(help="Name of the reference that the others are compared with; default: the first."),
    ] = None,
    imports: Imports = None,
) -> None:
    """Write an HTML page of all runs, with charts and tables.

    The page needs no other files. Charts and tables are also written beside it, for use in a paper.
    """
    from cifarlab.report.page import build_page

    refuse_place(out, "--out")
    page, skipped = build_page(runs, out, title=title, against=against, imports=imports or ())
    for each in skipped:
        print(f"left out: {each.path}: {each.reason}", file=sys.stderr)
    print(page.resolve())
