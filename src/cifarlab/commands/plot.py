"""`cifarlab plot`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cifarlab.commands.shared import (
    Imports,
    Root,
    app,
    refuse_place,
)


@app.command()
def plot(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs; predictions are those of the first.")],
    out: Annotated[
        Path | None, typer.Option(help="The .png, .svg or .pdf file to write; default: <first run>/plot.png.")
    ] = None,
    title: Annotated[str | None, typer.Option(help="The picture's heading.")] = None,
    gallery: Annotated[
        bool, typer.Option(help="Add validation pictures with the first run's predictions.")
    ] = True,
    root: Root = None,
    imports: Imports = None,
) -> None:
    """Plot learning curves of runs, with sample predictions.

    The predictions are those of the first run, on validation pictures, or on training pictures if there are
    none.
    """
    from cifarlab.report.plot import plot_runs

    if out is not None or runs[0].is_dir():
        refuse_place(runs[0] if out is None else out.parent, "--out")
    path = plot_runs(
        runs, out or runs[0] / "plot.png", title=title, gallery=gallery, root=root, imports=imports or ()
    )
    print(path.resolve())
