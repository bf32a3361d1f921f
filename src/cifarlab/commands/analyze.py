"""`cifarlab analyze`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from cifarlab.commands.shared import (
    AsJson,
    Device,
    Imports,
    Root,
    RunFolder,
    Scored,
    app,
    print_warnings,
    refuse_place,
)

if TYPE_CHECKING:
    from cifarlab.evaluation.analysis.records import AnalysisFile


@app.command()
def analyze(
    run: RunFolder,
    split: Scored = "val",
    corruptions: Annotated[
        bool,
        typer.Option(
            "--corruptions", help="Also score noisy, blurred, low-contrast and JPEG pictures: 20 passes."
        ),
    ] = False,
    near: Annotated[
        bool, typer.Option(help="Also score without near duplicates of training pictures.")
    ] = True,
    device: Device = "auto",
    root: Root = None,
    imports: Imports = None,
    as_json: AsJson = False,
) -> None:
    """Analyze a run: calibration, confusions, hard pictures.

    Writes analysis.json and analysis.png into the run's folder, and analysis_pictures.png, which the report
    shows. With --split test their names begin with analysis_test.
    """
    from cifarlab.core.files import write_json
    from cifarlab.evaluation.analysis.analyze import analyze as analyze_run
    from cifarlab.evaluation.analysis.tiles import pictures_path, write_tiles
    from cifarlab.report.analysis_page import write_analysis_page
    from cifarlab.runs.model import best_of

    file = best_of(run).with_name("analysis.json" if split == "val" else f"analysis_{split}.json")
    refuse_place(file.parent, str(run))
    found = analyze_run(
        run, split=split, corruptions=corruptions, near=near, device=device, root=root, imports=imports or ()
    )
    write_tiles(found.report.worth_a_look, found.pictures, pictures_path(file))
    write_json(file, found.report.to_json())
    page = write_analysis_page(found.report, found.pictures, file.with_suffix(".png"))
    if as_json:
        print(json.dumps({**found.report.to_json(), "page": str(page.resolve())}, indent=2))
        return
    print_warnings(found.report.warnings)
    for line in _findings(found.report):
        print(line)
    print(page.resolve())


def _findings(report: AnalysisFile) -> list[str]:
    remark = f" ({report.remark})" if report.remark else ""
    after = report.after_temperature
    temperatures = " and ".join(f"{value:.2f}" for value in report.temperatures)
    lines = [
        f"{report.run} on {report.split}: top-1 {report.top1:.2%}{remark}, "
        f"top-5 {report.top5:.2%}, {report.pictures:,} pictures; "
        f"on as many training pictures {report.train_top1:.2%}, a gap of {100 * report.gap:.1f} points",
        f"NLL {report.nll:.3f}, calibration error {report.ece:.1%}; after temperature scaling "
        f"({temperatures}) {after.nll:.3f}, {after.ece:.1%}",
    ]
    if report.superclass_top1 is not None:
        lines.append(f"superclass accuracy: {report.superclass_top1:.2%}")
    by_class = [(name, value) for name, value in report.by_class.items() if value is not None]
    worst = ", ".join(f"{name} {value:.0%}" for name, value in by_class[:3])
    best = ", ".join(f"{name} {value:.0%}" for name, value in by_class[-3:])
    lines.append(f"classes: lowest {worst}; highest {best}")
    if report.most_confused:
        common = [f"{each.label} as {each.guess} ({each.count})" for each in report.most_confused]
        lines.append(f"most frequent confusions (true as predicted): {', '.join(common[:3])}")
    if (known := report.without_near_duplicates) is not None:
        line = f"{known.near_duplicates:,} pictures have a copy or near duplicate in train"
        if known.near_duplicates and known.top1 is not None:
            line += f": top-1 {known.top1_on_near_duplicates:.2%} on them, {known.top1:.2%} without"
        lines.append(line)
    if (mean := report.corrupted_top1) is not None:
        kinds = report.by_corruption.items()
        said = ", ".join(f"{kind} {sum(values) / len(values):.1%}" for kind, values in kinds)
        lines.append(f"corrupted: {mean:.1%} (means over severities: {said})")
    if report.anchor:
        lines.append(report.anchor.text)
    return lines
