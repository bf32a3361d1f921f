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
    name: Annotated[str | None, typer.Option(help="Name of the new run; default: <run>_refit.")] = None,
    imports: Imports = None,
) -> None:
    """Train a run again with its validation pictures included.

    The new run ends at the epoch that `train.select` chose in the given run.
    """
    from cifarlab.experiments.refit import refit as refit_run
    from cifarlab.training.progress import TrainingProgress

    again, _ = refit_run(run, name=name, progress=TrainingProgress(), imports=imports or ())
    print(f"no validation pictures are left; to score on test: cifarlab eval {again} --split test")
