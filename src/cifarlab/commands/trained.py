"""Commands that ask a trained run: `eval`, `predict`, `plot`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from cifarlab.commands.shared import AsJson, ImageSize, RunFolder, app


@app.command(name="eval")
def evaluate(
    run: RunFolder,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "val",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")] = "auto",
    root: Annotated[
        str | None, typer.Option(help="Where the data set lies, if not where the run found it.")
    ] = None,
    image_size: ImageSize = None,
    as_json: AsJson = False,
) -> None:
    """Score a run's chosen model on a split; the test score goes into the run's summary."""
    from cifarlab.registry import ConfigError, unknown
    from cifarlab.runs import evaluate_run

    if split not in ("train", "val", "test"):
        raise ConfigError(f"--split {split}: {unknown(split, ('train', 'val', 'test'))}")
    scores = evaluate_run(run, split, device, root, image_size)
    if as_json:
        print(json.dumps(scores, indent=2))
        return
    for line in scores["warnings"]:
        print(f"warning: {line}", file=sys.stderr)
    print(
        f"{run} on {split}: top-1 {scores['top1']:.2%}, top-5 {scores['top5']:.2%}, "
        f"loss {scores['loss']:.3f} ({scores['pictures']:,} pictures){scores['remark']}"
    )
    if split == "test":
        opened = scores["test_opened"]
        print(
            f"the test set has been opened {opened['run']:,} x for this run, "
            f"{opened['runs']:,} x for all runs beside it"
        )
    if split == "test" and not scores["written"]:
        print("not written to a summary: the run is not finished")


@app.command()
def predict(
    run: RunFolder,
    pictures: Annotated[list[Path], typer.Argument(help="Picture files, and folders of them.")],
    top: Annotated[int, typer.Option(min=1, help="How many classes a picture.")] = 5,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")] = "auto",
    image_size: ImageSize = None,
    as_json: AsJson = False,
) -> None:
    """The most probable classes of each picture."""
    from cifarlab.runs import predict as predict_pictures

    answers = predict_pictures(run, pictures, top, device, image_size)
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
) -> None:
    """Curves of runs, and what the first one makes of pictures it has not trained on."""
    from cifarlab.report.plot import plot_runs

    path = plot_runs(runs, out or runs[0] / "plot.png", title, gallery)
    print(path.resolve())
