"""Commands that judge over seeds, `compare` and `ladder`, and what comes after: `refit`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from cifarlab.commands.shared import (
    AT_ONCE,
    AsJson,
    AtOnce,
    Overrides,
    RunFolder,
    RunsFolder,
    app,
    print_table,
    refuse_idle_at_once,
    run_name,
    training_progress,
)

Seeds = Annotated[
    int | None, typer.Option(min=1, help="Seeds 0 to N-1 of each; those that are missing are trained first.")
]
MetricOption = Annotated[
    Literal["val", "test"], typer.Option(help="Which accuracy; test opens the sealed test set: counted.")
]


@app.command()
def compare(
    what: Annotated[
        list[str], typer.Argument(help="Recipes or names of runs, the first to compare with; then key=value.")
    ],
    seeds: Seeds = None,
    metric: MetricOption = "val",
    at_once: AtOnce = AT_ONCE,
    runs: RunsFolder = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Train what is missing, and say what the seeds show: how much better, how sure, at what cost."""
    from cifarlab.compare import compare as compare_arms
    from cifarlab.compare import find_arm, train_missing
    from cifarlab.merging import refuse_twice
    from cifarlab.registry import ConfigError

    overrides = [text for text in what if "=" in text]
    names = [text for text in what if "=" not in text]
    if len(names) < 2:
        raise ConfigError("compare needs two recipes or names of runs, or more")
    refuse_twice(overrides)
    _refuse_idle_overrides(overrides, seeds)
    refuse_idle_at_once(at_once, seeds)
    arms = [find_arm(name, runs, seeds, overrides) for name in names]
    if len({arm.name for arm in arms}) < len(arms):
        raise ConfigError("compare was given a name twice")
    train_missing(arms, runs, training_progress(as_json), at_once)
    found = compare_arms(arms, metric, "first")
    if as_json:
        print(json.dumps(found, indent=2))
        return
    _print_comparison(found)


@app.command()
def ladder(
    prefix: Annotated[str, typer.Argument(help="What the recipes' names begin with: ladder/")],
    overrides: Overrides = None,
    drop_one: Annotated[
        bool, typer.Option("--drop-one", help="Also train the top without each rung's change in turn.")
    ] = False,
    seeds: Seeds = None,
    metric: MetricOption = "val",
    at_once: AtOnce = AT_ONCE,
    runs: RunsFolder = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Each recipe of a ladder against the one below it; and what its top is worth without each change."""
    from cifarlab.ladder import climb

    _refuse_idle_overrides(overrides or [], seeds)
    refuse_idle_at_once(at_once, seeds)
    progress = training_progress(as_json)
    found = climb(prefix, runs, seeds, overrides or [], metric, drop_one, progress, at_once)
    if as_json:
        print(json.dumps(found, indent=2))
        return
    _print_comparison(found)
    if not drop_one:
        return
    rows = [row for row in found["drop_one"] if "kept" not in row]
    if rows:
        top = found["arms"][-1]["name"]
        print(f"\n{top} without each change; the differences are what the change is worth there:")
        _print_rows([{**row, "name": row["left_out"]} for row in rows], found["metric"])
    for row in found["drop_one"]:
        said = row["difference"]["verdict"] if "kept" not in row else f"cannot be left out: {row['kept']}"
        shown = " than without" if "kept" not in row and row["difference"]["shown"] else ""
        print(f"with {row['left_out']}: {said}{shown}")


@app.command()
def refit(
    run: RunFolder,
    name: Annotated[str | None, typer.Option(help="The new run's name; default: <run>_refit.")] = None,
) -> None:
    """Train a run again on all training pictures, those that validated it too, up to its chosen epoch."""
    from cifarlab.progress import TrainingProgress
    from cifarlab.refit import refit as refit_run

    again, _ = refit_run(run, None if name is None else run_name(name), TrainingProgress())
    print(f"nothing was held out to score it on; the test set: cifarlab eval {again} --split test")


def _refuse_idle_overrides(overrides: list[str], seeds: int | None) -> None:
    from cifarlab.registry import ConfigError

    if overrides and seeds is None:
        raise ConfigError(f"{overrides[0]}: overrides say how to train; say how many seeds, e.g. --seeds 3")


def _print_comparison(found: dict[str, Any]) -> None:
    _print_rows(found["arms"], found["metric"])
    for row in found["arms"]:
        if apart := row["difference"]:
            print(f"{row['name']}: {apart['verdict']}" + (f" than {apart['from']}" if apart["shown"] else ""))
    for note in found["notes"]:
        print(f"note: {note}")
    print(
        "Mean ± standard deviation over seeds; differences in points, p after Holm's correction; luck: the "
        "points by which the choice of the best epoch flatters."
    )
    print(f"The test set has been opened {found['test_opened']:,} x for the runs in this folder.")


def _print_rows(rows: list[dict[str, Any]], metric: str) -> None:
    head = ("", "seeds", f"{metric} top-1 %", "95 % interval", "difference", "95 % interval", "p", "luck",
            "minutes")  # fmt: skip
    print_table(head, [_cells(row) for row in rows], numbers=head[1:])


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    from cifarlab.verdicts import interval, p_value

    spread = "" if row["sd"] is None else f" ± {100 * row['sd']:.2f}"
    difference = row["difference"]
    apart = ("", "", "")
    if difference:
        shown = interval(difference, "+.2f")
        apart = (f"{100 * difference['mean']:+.2f}", shown, p_value(difference["p_holm"]))
    luck = "-" if row["optimism"] is None else f"{100 * row['optimism']:.2f}"
    scores = f"{100 * row['mean']:.2f}{spread}", interval(row, ".2f")
    return (row["name"], str(row["n"]), *scores, *apart, luck, f"{row['minutes']:.1f}")
