"""`cifarlab refit`."""

from __future__ import annotations

from typing import Annotated

import typer

from cifarlab.commands.shared import (
    Imports,
    RunFolder,
    app,
)


@app.command()
def refit(
    run: RunFolder,
    name: Annotated[str | None, typer.Option(help="The new run's name; default: <run>_refit.")] = None,
    imports: Imports = None,
) -> None:
    """Train a run again on all training pictures, those that validated it too, up to its chosen epoch."""
    from cifarlab.experiments.refit import refit as refit_run
    from cifarlab.training.progress import TrainingProgress

    again, _ = refit_run(run, name, TrainingProgress(), imports or ())
    print(f"nothing was held out to score it on; the test set: cifarlab eval {again} --split test")
