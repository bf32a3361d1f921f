"""`cifarlab predict`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from cifarlab.commands.shared import (
    AsJson,
    Device,
    ImageSize,
    Imports,
    RunFolder,
    app,
)


@app.command()
def predict(
    run: RunFolder,
    pictures: Annotated[list[Path], typer.Argument(help="Picture files, or folders of pictures.")],
    top: Annotated[int, typer.Option(min=1, help="Number of classes to print for each picture.")] = 5,
    device: Device = "auto",
    image_size: ImageSize = None,
    imports: Imports = None,
    as_json: AsJson = False,
) -> None:
    """Classify pictures with a trained model."""
    from cifarlab.evaluation.predict import predict as predict_pictures

    answers = predict_pictures(
        run, pictures, top=top, device=device, image_size=image_size, imports=imports or ()
    )
    if as_json:
        print(json.dumps([answer.to_json() for answer in answers], indent=2))
        return
    for answer in answers:
        ranked = zip(answer.classes, answer.probabilities, strict=True)
        print(f"{answer.picture}: " + ", ".join(f"{name} {value:.1%}" for name, value in ranked))
