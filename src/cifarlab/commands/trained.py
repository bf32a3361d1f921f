"""Commands that ask a trained run: `eval`, `predict`, `plot`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from cifarlab.commands.shared import (
    AsJson,
    Device,
    ImageSize,
    Imports,
    MeanName,
    Root,
    RunFolder,
    Tta,
    app,
    calibration_line,
    refuse_idle_mean,
    refuse_place,
)


@app.command(name="eval")
def evaluate(
    run: RunFolder,
    split: Annotated[
        Literal["train", "val", "test"], typer.Option(help="Which pictures; test opens the sealed ones.")
    ] = "val",
    device: Device = "auto",
    root: Root = None,
    image_size: ImageSize = None,
    tta: Tta = None,
    mean: Annotated[
        MeanName | None,
        typer.Option(help="Of --tta's views: of their logits (the default) or probabilities."),
    ] = None,
    imports: Imports = None,
    as_json: AsJson = False,
) -> None:
    """Score a run's chosen model on a split; the test score goes into the run's summary."""
    from cifarlab.runs import evaluate_run
    from cifarlab.tta import parse

    refuse_idle_mean(mean, tta)
    augmented = parse(tta) if tta is not None else None
    scores = evaluate_run(
        run, split, device, root, image_size, augmented, mean or "logits", imports=imports or ()
    )
    if as_json:
        print(json.dumps(scores, indent=2))
        return
    for line in scores["warnings"]:
        print(f"warning: {line}", file=sys.stderr)
    print(
        f"{run} on {split}: top-1 {scores['top1']:.2%}, top-5 {scores['top5']:.2%}, "
        f"loss {scores['loss']:.3f} ({scores['pictures']:,} pictures){scores['remark']}"
    )
    print(calibration_line(scores))
    if (other := scores["tta"]) is not None:
        passes = other["forward_passes"]
        print(
            f"with {tta}: top-1 {other['top1']:.2%} ({100 * (other['top1'] - scores['top1']):+.2f} points), "
            f"top-5 {other['top5']:.2%}, loss {other['loss']:.3f}; {passes} forward passes a picture, "
            f"{other['images_per_second']:,.0f} img/s instead of {scores['images_per_second']:,.0f}"
        )
        print(calibration_line(other))
    if split == "test":
        opened = scores["test_opened"]
        print(
            f"the test set has been opened {opened['run']:,} x for this run, "
            f"{opened['runs']:,} x for all runs beside it"
        )
    if split == "test" and not scores["written"]:
        print(f"not written to a summary: {scores['not_written']}")


@app.command()
def predict(
    run: RunFolder,
    pictures: Annotated[list[Path], typer.Argument(help="Picture files, and folders of them.")],
    top: Annotated[int, typer.Option(min=1, help="How many classes a picture.")] = 5,
    device: Device = "auto",
    image_size: ImageSize = None,
    imports: Imports = None,
    as_json: AsJson = False,
) -> None:
    """The most probable classes of each picture."""
    from cifarlab.runs import predict as predict_pictures

    answers = predict_pictures(run, pictures, top, device, image_size, imports or ())
    if as_json:
        print(json.dumps(answers, indent=2))
        return
    for answer in answers:
        ranked = zip(answer["classes"], answer["probabilities"], strict=True)
        print(f"{answer['picture']}: " + ", ".join(f"{name} {value:.1%}" for name, value in ranked))


@app.command()
def plot(
    runs: Annotated[list[Path], typer.Argument(help="Runs' folders; the first one's predictions are shown.")],
    out: Annotated[
        Path | None, typer.Option(help="The picture to write (.png or .svg); default: <first run>/plot.png.")
    ] = None,
    title: Annotated[str | None, typer.Option(help="The picture's heading.")] = None,
    gallery: Annotated[
        bool, typer.Option(help="Add a grid of validation pictures with the first run's predictions.")
    ] = True,
    root: Root = None,
    imports: Imports = None,
) -> None:
    """Curves of runs, and what the first one makes of pictures it has not trained on."""
    from cifarlab.report.plot import plot_runs

    if out is not None or runs[0].is_dir():
        refuse_place(runs[0] if out is None else out.parent, "--out")
    path = plot_runs(runs, out or runs[0] / "plot.png", title, gallery, root, imports or ())
    print(path.resolve())
