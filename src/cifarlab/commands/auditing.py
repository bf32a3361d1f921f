"""Commands that look hard at data and at runs: `audit`, `analyze`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from cifarlab.commands.shared import AsJson, Imports, RunFolder, Scored, app, refuse_place

# Below this accuracy, pictures that contradict their labels say more of the model than of the labels.
WEAK = 0.6


@app.command()
def audit(
    what: Annotated[
        list[str] | None,
        typer.Argument(help="A data set's name, or runs' folders: of their data. Default: cifar100."),
    ] = None,
    root: Annotated[str | None, typer.Option(help="Where the data set lies.")] = None,
    near: Annotated[
        bool, typer.Option(help="Look for near duplicates too: a minute for 60,000 pictures.")
    ] = True,
    out: Annotated[Path, typer.Option(help="The folder for audit.json and audit.png.")] = Path("audit"),
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1: for runs.")] = "auto",
    imports: Imports = None,
    as_json: AsJson = False,
) -> None:
    """Duplicates within and across the parts, class balance; with runs, suspect labels; shown.

    With runs, the first one's model looks for near duplicates, too, which opens the sealed test pictures.
    """
    from cifarlab.audit.audit import audit as audit_data
    from cifarlab.audit.audit import data_and_runs
    from cifarlab.checkpoint import write_json
    from cifarlab.report.sheets import write_audit_sheet

    refuse_place(out, "--out")
    data, runs = data_and_runs(what or ["cifar100"], root, device, imports or ())
    found = audit_data(data, runs, near=near)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "audit.json", found.report)
    sheet = write_audit_sheet(found, out / "audit.png")
    if as_json:
        print(json.dumps({**found.report, "sheet": str(sheet.resolve())}, indent=2))
        return
    for pictures in found.parts.values():
        for line in pictures.warnings:
            print(f"warning: {line}", file=sys.stderr)
    for line in _lines(found.report):
        print(line)
    print(sheet.resolve())


def _lines(report: dict[str, Any]) -> list[str]:
    parts = list(report["pictures"])
    lines = []
    for part in parts:
        balance = report["class_balance"][part]
        (small, least), (large, most) = balance["smallest"], balance["largest"]
        sizes = f"{least:,} each" if least == most else f"{least:,} ({small}) to {most:,} ({large})"
        line = f"{part}: {report['pictures'][part]:,} pictures, {len(balance['counts'])} classes of {sizes}; "
        line += f"{report[f'duplicates_in_{part}']:,} surplus exact duplicates"
        if f"near_duplicates_in_{part}" in report:
            line += f", {report[f'near_duplicates_in_{part}']:,} with a near duplicate"
        lines.append(line)
    for theirs in parts:
        for ours in parts[parts.index(theirs) + 1 :]:
            key = f"{ours}_in_{theirs}"
            line = f"{ours} in {theirs}: {report[key]:,} pictures exactly "
            line += f"({report[f'{key}_same_label']:,} with the same label)"
            lines.append(line + (f", {report[f'near_{key}']:,} nearly" if f"near_{key}" in report else ""))
    if "near_threshold" in report:
        lines.append(
            f"nearly: the pictures' detail correlates by {report['near_threshold']} or more, flipped or "
            "shifted by one of 32 pixels (by two where the picture is smooth)"
        )
    if "suspects" in report:
        lines.append(
            f"suspect labels: {len(report['suspects']):,} of {report['suspects_among']:,} training pictures "
            f"that a run was not trained on; it puts {report['suspects_accuracy']:.0%} of them where "
            "they are labelled"
        )
        if report["suspects_accuracy"] < WEAK:
            lines.append("  most of these are the runs' errors, not the labels'; name more accurate runs")
        lines += [
            f"  train {row['picture'][1]}: {row['label']} ({row['probability_of_label']:.0%}), or "
            f"{row['suggested']} ({row['probability_of_suggested']:.0%})?"
            for row in report["suspects"][:10]
        ]
    return lines


@app.command()
def analyze(
    run: RunFolder,
    split: Scored = "val",
    corruptions: Annotated[
        bool, typer.Option("--corruptions", help="On noisy, blurred, flat and JPEG pictures too: 20 passes.")
    ] = False,
    near: Annotated[
        bool, typer.Option(help="Without pictures that are nearly among the training pictures, too.")
    ] = True,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")] = "auto",
    root: Annotated[
        str | None, typer.Option(help="Where the data set lies, if not where the run found it.")
    ] = None,
    imports: Imports = None,
    as_json: AsJson = False,
) -> None:
    """A run beyond top-1: calibration, classes, confusion, hard pictures, its place among published figures.

    Writes analysis.json, analysis.png and, for the report, analysis_pictures.png into the run's folder (of
    test: analysis_test.json, ...).
    """
    from cifarlab.analysis.analyze import analyze as analyze_run
    from cifarlab.analysis.tiles import pictures_path, write_tiles
    from cifarlab.checkpoint import write_json
    from cifarlab.report.analysis_page import write_analysis_page
    from cifarlab.trained import best_of

    file = best_of(run).with_name("analysis.json" if split == "val" else f"analysis_{split}.json")
    refuse_place(file.parent, str(run))
    found = analyze_run(
        run, split, corruptions=corruptions, near=near, device=device, root=root, imports=imports or ()
    )
    write_tiles(found.report, found.pictures, pictures_path(file))
    write_json(file, found.report)
    page = write_analysis_page(found.report, found.pictures, file.with_suffix(".png"))
    if as_json:
        print(json.dumps({**found.report, "page": str(page.resolve())}, indent=2))
        return
    for line in found.report["warnings"]:
        print(f"warning: {line}", file=sys.stderr)
    for line in _findings(found.report):
        print(line)
    print(page.resolve())


def _findings(report: dict[str, Any]) -> list[str]:
    remark = f" ({report['remark']})" if report["remark"] else ""
    after = report["after_temperature"]
    temperatures = " and ".join(f"{value:.2f}" for value in report["temperatures"])
    lines = [
        f"{report['run']} on {report['split']}: top-1 {report['top1']:.2%}{remark}, "
        f"top-5 {report['top5']:.2%}, {report['pictures']:,} pictures; "
        f"on as many of train {report['train_top1']:.2%}, a gap of {100 * report['gap']:.1f} points",
        f"NLL {report['nll']:.3f}, calibration error {report['ece']:.1%}; after temperature scaling "
        f"({temperatures}) {after['nll']:.3f}, {after['ece']:.1%}",
    ]
    if "superclass_top1" in report:
        lines.append(f"right superclass: {report['superclass_top1']:.2%}")
    by_class = [(name, value) for name, value in report["by_class"].items() if value is not None]
    worst = ", ".join(f"{name} {value:.0%}" for name, value in by_class[:3])
    best = ", ".join(f"{name} {value:.0%}" for name, value in by_class[-3:])
    lines.append(f"classes: lowest {worst}; highest {best}")
    if report["most_confused"]:
        common = [f"{row['label']} for {row['guess']} ({row['count']})" for row in report["most_confused"]]
        lines.append(f"commonest errors, what for what: {', '.join(common[:3])}")
    if "without_near_duplicates" in report:
        known = report["without_near_duplicates"]
        line = f"{known['near_duplicates']:,} pictures are, exactly or nearly, among the training pictures"
        if known["near_duplicates"] and known["top1"] is not None:
            line += f": top-1 {known['top1_on_near_duplicates']:.2%} on them, {known['top1']:.2%} without"
        lines.append(line)
    if "corruptions" in report:
        kinds = [(kind, values) for kind, values in report["corruptions"].items() if kind != "mean"]
        said = ", ".join(f"{kind} {sum(values) / len(values):.1%}" for kind, values in kinds)
        lines.append(f"corrupted: {report['corruptions']['mean']:.1%} (means over severities: {said})")
    if report["anchor"]:
        lines.append(report["anchor"]["text"])
    return lines
