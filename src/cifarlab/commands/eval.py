"""`cifarlab eval`."""

from __future__ import annotations

import json
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
    print_warnings,
)


@app.command(name="eval")
def evaluate(
    run: RunFolder,
    split: Annotated[
        Literal["train", "val", "test"],
        typer.Option(help="The pictures to score; test opens the sealed test set."),
    ] = "val",
    device: Device = "auto",
    root: Root = None,
    image_size: ImageSize = None,
    tta: Tta = None,
    mean: Annotated[
        MeanName | None,
        typer.Option(help="With --tta, average logits (the default) or probabilities."),
    ] = None,
    imports: Imports = None,
    as_json: AsJson = False,
) -> None:
    """Score a run's model on a split.

    It is the model of the epoch that `train.select` chose. A test score is also written to the run's summary.
    """
    from cifarlab.evaluation.score import evaluate

    scores = evaluate(
        run,
        split=split,
        device=device,
        root=root,
        image_size=image_size,
        tta=tta,
        mean=mean,
        imports=imports or (),
    )
    if as_json:
        print(json.dumps(scores.to_json(), indent=2))
        return
    print_warnings(scores.warnings)
    print(
        f"{run} on {split}: top-1 {scores.top1:.2%}, top-5 {scores.top5:.2%}, "
        f"loss {scores.loss:.3f} ({scores.pictures:,} pictures){scores.remark}"
    )
    print(calibration_line(scores))
    if (other := scores.tta) is not None:
        print(
            f"with {tta}: top-1 {other.top1:.2%} ({100 * (other.top1 - scores.top1):+.2f} points), "
            f"top-5 {other.top5:.2%}, loss {other.loss:.3f}; {other.forward_passes} forward passes per "
            f"picture, {other.images_per_second:,.0f} img/s instead of {scores.images_per_second:,.0f}"
        )
        print(calibration_line(other))
    if split == "test":
        opened = scores.test_opened
        print(
            f"the test set has been opened {opened['run']:,} x for this run, "
            f"{opened['runs']:,} x for all runs beside it"
        )
    if split == "test" and not scores.written:
        print(f"not written to a summary: {scores.not_written}")
