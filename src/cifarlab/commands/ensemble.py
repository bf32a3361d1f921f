"""`cifarlab ensemble`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from cifarlab.commands.shared import (
    AsJson,
    Device,
    Imports,
    MeanName,
    Root,
    RunFolders,
    Scored,
    Tta,
    app,
    calibration_line,
    print_table,
    print_warnings,
)

if TYPE_CHECKING:
    from cifarlab.evaluation.ensemble import EnsembleMember, EnsembleScores


@app.command()
def ensemble(
    runs: RunFolders,
    split: Scored = "val",
    mean: Annotated[
        MeanName | None,
        typer.Option(help="Average probabilities or logits; default: the better one on validation."),
    ] = None,
    choose: Annotated[
        bool, typer.Option("--choose", help="Also choose the members, greedily, on validation.")
    ] = False,
    tta: Tta = None,
    device: Device = "auto",
    root: Root = None,
    imports: Imports = None,
    as_json: AsJson = False,
) -> None:
    """Score the mean prediction of several runs.

    Shows the accuracy and the cost of each run and of the ensemble.
    """
    from cifarlab.evaluation.ensemble import evaluate_ensemble

    found = evaluate_ensemble(
        runs, split, device=device, root=root, mean=mean, choose=choose, tta=tta, imports=imports or ()
    )
    if as_json:
        print(json.dumps(found.to_json(), indent=2))
        return
    print_warnings(found.warnings)
    _print_ensemble(found)


def _print_ensemble(found: EnsembleScores) -> None:
    split = found.split
    rows = [
        (row.run, _top1_cell(row), str(row.forward_passes), f"{row.macs / 1e6:,.1f}") for row in found.members
    ]
    count = sum(row.chosen for row in found.members)
    name = f"ensemble of {count}, mean of {found.mean}"
    rows.append((name, f"{found.top1:.2%}", str(found.forward_passes), f"{found.macs / 1e6:,.1f}"))
    print_table(("run", f"top-1 on {split}", "passes", "million MACs per picture"), rows)
    best = next((row for row in found.members if row.run == found.best_member), None)
    if best is not None and found.gain is not None:
        cost = found.macs / best.macs
        print(
            f"{100 * found.gain:+.2f} points over {best.run}, the best on val, at {cost:.1f} times its "
            f"cost ({found.pictures:,} pictures)"
        )
    print(calibration_line(found))
    if found.chosen_on_val:
        also = "; scored on the same pictures: optimistic" if split == "val" else ""
        print(f"chosen on val: {' and '.join(found.chosen_on_val)}{also}")


def _top1_cell(row: EnsembleMember) -> str:
    return f"{row.top1:.2%}" if row.chosen else f"left out ({row.val_top1:.2%} on val)"
