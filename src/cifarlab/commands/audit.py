"""`cifarlab audit`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cifarlab.commands.shared import AsJson, Imports, app, print_warnings, refuse_place

if TYPE_CHECKING:
    from cifarlab.evaluation.audit.report import AuditReport, SuspectLabels

# Below this accuracy, a model's suspect labels are mostly its own errors.
WEAK = 0.6


@app.command()
def audit(
    what: Annotated[
        list[str] | None,
        typer.Argument(help="A data set's name, or folders of runs, whose data are used. Default: cifar100."),
    ] = None,
    root: Annotated[str | None, typer.Option(help="The data set's folder.")] = None,
    near: Annotated[
        bool, typer.Option(help="Also look for near duplicates: a minute for 60,000 pictures.")
    ] = True,
    out: Annotated[Path, typer.Option(help="The folder for audit.json and audit.png.")] = Path("audit"),
    device: Annotated[
        str, typer.Option(help="Where to compute, with runs: auto, cpu, cuda, cuda:1.")
    ] = "auto",
    imports: Imports = None,
    as_json: AsJson = False,
) -> None:
    """Find duplicates, class imbalance and suspect labels.

    With runs, the first run's model also helps to find near duplicates. It sees the test pictures for that.
    This use of the test set is recorded in ledger.jsonl, in the folder of all runs. The models of all runs
    find suspect labels.
    """
    from cifarlab.core.files import write_json
    from cifarlab.evaluation.audit.audit import audit as audit_data
    from cifarlab.evaluation.audit.audit import data_and_runs
    from cifarlab.report.contact_sheet import write_audit_sheet

    refuse_place(out, "--out")
    data, runs = data_and_runs(what or ["cifar100"], root=root, device=device, imports=imports or ())
    found = audit_data(data, runs=runs, near=near)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "audit.json", found.report.to_json())
    sheet = write_audit_sheet(found, out / "audit.png")
    if as_json:
        print(json.dumps({**found.report.to_json(), "sheet": str(sheet.resolve())}, indent=2))
        return
    for pictures in found.parts.values():
        print_warnings(pictures.warnings)
    for line in _lines(found.report):
        print(line)
    print(sheet.resolve())


def _lines(report: AuditReport) -> list[str]:
    parts, near = list(report.pictures), report.near
    lines = []
    for part in parts:
        balance = report.class_balance[part]
        (small, least), (large, most) = balance.smallest, balance.largest
        sizes = f"{least:,} each" if least == most else f"{least:,} ({small}) to {most:,} ({large})"
        line = f"{part}: {report.pictures[part]:,} pictures, {len(balance.counts)} classes of {sizes}; "
        line += f"{report.exact.surplus[part]:,} surplus exact duplicates"
        lines.append(line + (f", {near.pictures[part, part]:,} with a near duplicate" if near else ""))
    for theirs in parts:
        for ours in parts[parts.index(theirs) + 1 :]:
            shared = report.exact.shared[ours, theirs]
            line = f"{ours} in {theirs}: {shared.pictures:,} exact copies "
            line += f"({shared.same_label:,} with the same label)"
            lines.append(line + (f", {near.pictures[ours, theirs]:,} near duplicates" if near else ""))
    if near:
        lines.append(
            f"near duplicates: the details of the pictures correlate by {near.threshold} or more, also if "
            "one is flipped or shifted by one of 32 pixels (by two in smooth pictures)"
        )
    return lines + (_suspect_lines(report.suspected) if report.suspected else [])


def _suspect_lines(found: SuspectLabels) -> list[str]:
    lines = [
        f"suspect labels: {len(found.suspects):,} of {found.suspects_among:,} training pictures "
        f"that a run was not trained on; accuracy on these {found.suspects_accuracy:.0%}"
    ]
    if found.suspects_accuracy < WEAK:
        lines.append("  most suspects are errors of the models, not of the labels; use more accurate runs")
    return lines + [
        f"  train {row.picture[1]}: {row.label} ({row.probability_of_label:.0%}), or "
        f"{row.suggested} ({row.probability_of_suggested:.0%})?"
        for row in found.suspects[:10]
    ]
