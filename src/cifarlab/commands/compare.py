"""`cifarlab compare`."""

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
    RunsFolder,
    Seeds,
    app,
    print_comparison,
    refuse_idle_at_once,
    refuse_idle_overrides,
    training_progress,
)


@app.command()
def compare(
    what: Annotated[
        list[str],
        typer.Argument(
            help="Recipes or names of runs; the first is the reference. Then overrides, key=value."
        ),
    ],
    seeds: Seeds = None,
    metric: MetricOption = "val",
    at_once: AtOnce = AT_ONCE,
    runs: RunsFolder = Path("runs"),
    imports: Imports = None,
    as_json: AsJson = False,
) -> None:
    """Compare recipes or runs over seeds, with intervals.

    With --seeds, missing runs are trained first. Shows the difference, its confidence interval and its cost.
    """
    from cifarlab.config.merge import refuse_twice
    from cifarlab.core.errors import ConfigError
    from cifarlab.experiments.compare import compare_arms, find_arm, train_missing

    overrides = [text for text in what if "=" in text]
    names = [text for text in what if "=" not in text]
    if len(names) < 2:
        raise ConfigError("compare needs two recipes or names of runs, or more")
    refuse_twice(overrides)
    refuse_idle_overrides(overrides, seeds)
    refuse_idle_at_once(at_once, seeds)
    arms = [find_arm(name, runs, seeds, overrides, imports or ()) for name in names]
    if len({arm.name for arm in arms}) < len(arms):
        raise ConfigError("compare was given a name twice")
    train_missing(arms, runs, training_progress(as_json), at_once)
    found = compare_arms(arms, metric, "first")
    if as_json:
        print(json.dumps(found, indent=2))
        return
    print_comparison(found)
