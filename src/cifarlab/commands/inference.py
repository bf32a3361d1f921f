"""Commands that make one answer of several runs: `ensemble`, `soup`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from cifarlab.commands.shared import (
    AsJson,
    Device,
    Imports,
    MeanName,
    Root,
    Scored,
    Tta,
    app,
    calibration_line,
    print_table,
)

RunFolders = Annotated[list[Path], typer.Argument(help="Runs' folders: runs/<name>/<seed>, two or more.")]


@app.command()
def ensemble(
    runs: RunFolders,
    split: Scored = "val",
    mean: Annotated[
        MeanName | None,
        typer.Option(help="Of probabilities or of logits; default: the better one on validation."),
    ] = None,
    choose: Annotated[
        bool, typer.Option("--choose", help="Choose the members, too: greedily, on validation.")
    ] = False,
    tta: Tta = None,
    device: Device = "auto",
    root: Root = None,
    imports: Imports = None,
    as_json: AsJson = False,
) -> None:
    """Score the mean of what several runs say, beside each of them and its cost."""
    from cifarlab.inference.ensembles import evaluate_ensemble
    from cifarlab.tta import parse

    augmented = parse(tta) if tta is not None else None
    found = evaluate_ensemble(runs, split, device, root, mean, choose, augmented, imports or ())
    if as_json:
        print(json.dumps(found, indent=2))
        return
    _print_warnings(found["warnings"])
    _print_ensemble(found)


def _print_ensemble(found: dict[str, Any]) -> None:
    split = found["split"]
    rows = [
        (
            row["run"],
            f"{row['top1']:.2%}" if row["chosen"] else f"left out ({row['val_top1']:.2%} on val)",
            str(row["forward_passes"]),
            f"{row['macs'] / 1e6:,.1f}",
        )
        for row in found["members"]
    ]
    count = sum(row["chosen"] for row in found["members"])
    name = f"ensemble of {count}, mean of {found['mean']}"
    rows.append((name, f"{found['top1']:.2%}", str(found["forward_passes"]), f"{found['macs'] / 1e6:,.1f}"))
    print_table(("run", f"top-1 on {split}", "passes", "million MACs a picture"), rows)
    best = next((row for row in found["members"] if row["run"] == found["best_member"]), None)
    if best is not None:
        cost = found["macs"] / best["macs"]
        print(
            f"{100 * found['gain']:+.2f} points over {best['run']}, the best on val, at {cost:.1f} times its "
            f"cost ({found['pictures']:,} pictures)"
        )
    print(calibration_line(found))
    if found["chosen_on_val"]:
        also = "; these are the same pictures: optimistic" if split == "val" else ""
        print(f"chosen on val: {' and '.join(found['chosen_on_val'])}{also}")


@app.command()
def soup(
    ingredients: RunFolders,
    name: Annotated[str, typer.Option(help="The name of the run that is made.")],
    runs: Annotated[Path, typer.Option(help="The folder of all runs.")] = Path("runs"),
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start over: remove what the soup's folder holds.")
    ] = False,
    device: Device = "auto",
    root: Root = None,
    imports: Imports = None,
    as_json: AsJson = False,
) -> None:
    """Average the weights of runs greedily, as far as validation gains, into a run of its own."""
    from cifarlab.inference.soups import make_soup
    from cifarlab.naming import run_name
    from cifarlab.run import Run

    name = run_name(name)
    # It has no seed; 0 is where `teacher.run=NAME` looks.
    made = Run(runs / name / "0", "soup", name)
    summary = make_soup(ingredients, made, device, root, fresh, imports or ())
    if as_json:
        print(json.dumps({"run": str(made), **summary}, indent=2))
        return
    _print_warnings(summary["warnings"])
    rows = [
        (
            entry["run"],
            f"{entry['val_top1']:.2%}",
            f"{entry['soup_val_top1']:.2%}",
            "yes" if entry["kept"] else "no",
        )
        for entry in summary["soup"]["ingredients"]
    ]
    print_table(("run", "top-1 on val", "soup with it", "kept"), rows)
    print(
        f"{made}: val {summary['val_top1']:.2%} (chosen on val: optimistic), the cost of one model; "
        f"`cifarlab eval {made} --split test` scores it"
    )


def _print_warnings(lines: list[str]) -> None:
    for line in lines:
        print(f"warning: {line}", file=sys.stderr)
