"""`cifarlab profile`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cifarlab.commands.shared import AsJson, Overrides, RecipeName, RunsFolder, app, print_table, refuse_place

if TYPE_CHECKING:
    from cifarlab.training.profile import Profile


@app.command()
def profile(
    recipe: RecipeName,
    overrides: Overrides = None,
    steps: Annotated[int, typer.Option(min=1, help="Number of steps to time.")] = 20,
    trace: Annotated[
        Path | None, typer.Option(help="Write a trace of some steps to this .json file, for ui.perfetto.dev.")
    ] = None,
    runs: RunsFolder = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Show the time of each part of a training step.

    It also shows the time of an epoch, and the speed of a step as a share of the machine's speed for large
    matrix products.
    """
    from cifarlab.config.recipes import read_recipe, resolve
    from cifarlab.core.errors import ConfigError
    from cifarlab.training.profile import profile as profile_recipe

    if trace is not None and trace.suffix != ".json":
        raise ConfigError(f"--trace {trace}: the viewers read JSON; use the suffix .json")
    if trace is not None:
        refuse_place(trace.parent, "--trace")
    found = read_recipe(recipe)
    result = profile_recipe(resolve(found, overrides or ()), steps=steps, trace=trace, runs=runs)
    if as_json:
        print(json.dumps(result.to_json(), indent=2))
        return
    _print(found.name, result)
    if trace is not None:
        print(trace.resolve())


def _print(name: str, found: Profile) -> None:
    from cifarlab.training.progress import duration

    hardware, step = found.hardware, found.step
    machine = hardware.get("gpu") or f"{hardware['processor']}, {hardware['threads']} threads"
    print(
        f"{name} on {machine}, {found.precision}: {found.images_per_second:,.0f} img/s, "
        f"{1000 * step:.1f} ms for a step of {found.pictures} pictures (median of {found.steps})"
    )
    parts = sum(found.parts.values())
    rows = [
        (part, f"{1000 * seconds:.2f}", f"{seconds / parts:.1%}") for part, seconds in found.parts.items()
    ]
    print_table(("part of a step", "ms", "share"), rows, numbers=("ms", "share"))
    epoch: dict[str, float] = found.epoch.to_json()
    whole = sum(epoch.values())
    rows = [(part, f"{seconds:.2f}", f"{seconds / whole:.1%}") for part, seconds in epoch.items()]
    print_table(("part of an epoch", "s", "share"), rows, numbers=("s", "share"))
    print(
        f"Its matrix products and convolutions, {found.flops / 1e9:,.1f} GFLOP per step, would take "
        f"{1000 * found.floor:.1f} ms at this machine's rate for large matrices, "
        f"{found.peak_flops_per_second / 1e9:,.0f} GFLOP/s: the step reaches {found.floor / step:.0%} "
        "of that rate."
    )
    print(f"Writing the checkpoint takes {found.writing:.2f} s, while training continues.")
    print(f"{found.epochs} epochs: {duration(found.run)}")
