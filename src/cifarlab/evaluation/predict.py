"""The most probable classes of pictures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cifarlab.core.device import Precision
from cifarlab.core.errors import ConfigError
from cifarlab.data.decoding import decode, suffixes
from cifarlab.engine.evaluate import pictures_per_batch
from cifarlab.evaluation.score import asked_image_size
from cifarlab.runs.model import load_trained


def pictures_in(paths: Iterable[Path | str]) -> list[Path]:
    """The picture files among `paths`; folders are searched, in order. Raises ConfigError for none."""
    found: list[Path] = []
    known = suffixes()
    for path in map(Path, paths):
        if path.is_dir():
            found += sorted(
                p for p in path.rglob("*") if p.suffix.lower() in known and not p.name.startswith(".")
            )
        elif path.is_file():
            found.append(path)
        else:
            raise ConfigError(f"{path}: no such file or folder")
    if not found:
        raise ConfigError(f"no pictures in {', '.join(map(str, paths))}")
    return found


@torch.inference_mode()
def predict(
    run: Path | str,
    paths: Iterable[Path | str],
    top: int = 5,
    device: str = "auto",
    image_size: int | None = None,
    imports: Sequence[Path | str] = (),
) -> list[dict[str, Any]]:
    """The `top` most probable classes of each picture, in order: {picture, classes, probabilities}.

    image_size: pixels a side that the model sees, if not the run's own. imports: as of `load`. Raises
    ConfigError as `load` does, for paths without pictures, and for a size that the model cannot take.
    """
    files = pictures_in(paths)
    trained = load_trained(run, device, imports)
    model, size = trained.model, asked_image_size(trained, image_size)
    here = next(model.parameters()).device
    precision = Precision(here, torch.float32)
    answers = []
    count = min(64, pictures_per_batch(here.type, size))
    for start in range(0, len(files), count):
        chunk = files[start : start + count]
        images = torch.from_numpy(np.stack([decode(path, trained.store_size) for path in chunk])).to(here)
        probabilities = model(precision.layout(images), size).logits.float().softmax(-1)
        best = probabilities.topk(min(top, probabilities.shape[1]))
        for path, values, labels in zip(chunk, best.values.tolist(), best.indices.tolist(), strict=True):
            names = [model.classes[label] for label in labels]
            answers.append({"picture": str(path), "classes": names, "probabilities": values})
    return answers
