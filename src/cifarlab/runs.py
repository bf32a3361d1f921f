"""Reading runs: the model of one, its scores, its answers for a picture."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from cifarlab import checkpoint
from cifarlab.config import Config
from cifarlab.data.decoding import decode
from cifarlab.data.splits import load_splits, load_test, place
from cifarlab.device import Precision, pick_device, pick_precision, picture_budget
from cifarlab.evaluate import evaluate
from cifarlab.models.classifier import Classifier, build_classifier, to_device
from cifarlab.progress import OPTIMISTIC
from cifarlab.recipes import checked
from cifarlab.registry import ConfigError
from cifarlab.run import Run, read_json


@dataclass(frozen=True)
class Trained:
    """A run's chosen model and its configuration. store_size: pixels a side of the pictures it was given."""

    model: Classifier
    config: Config
    store_size: int


def load(run: Path | str, device: str = "cpu") -> Classifier:
    """The chosen model of a run, in evaluation mode.

    It takes pictures (B, 3, H, W) of any size, uint8 or floats in [0, 1], and answers with an `Output`;
    `classes` holds the labels' names. Raises ConfigError where the folder holds no finished epoch.
    """
    return load_trained(run, device).model


def load_trained(run: Path | str, device: str = "cpu") -> Trained:
    """The chosen model of a run, and what it was trained on. Raises ConfigError as `load` does."""
    folder = Run(run)
    if not folder.folder.is_dir():
        raise ConfigError(f"{folder}: no such run")
    if not folder.best_path.exists():
        raise ConfigError(f"{folder} has no best.pt: it has not finished an epoch, or is not a run")
    place_on = pick_device(device)
    state = checkpoint.load(folder.best_path, place_on)
    config = checked(state["config"])
    classes = state["classes"]
    statistics = ((0.0,) * 3, (1.0,) * 3)  # Replaced by the checkpoint's own.
    model = build_classifier(
        config.model, config.data.image_size, len(classes), statistics, classes=classes, initial=False
    )
    try:
        model.load_state_dict(state["model"])
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"{folder.best_path}: its weights do not fit its own configuration: {reason}"
        ) from None
    return Trained(to_device(model, place_on).eval(), config, state["store_size"])


def evaluate_run(
    run: Path | str, split: str, device: str = "auto", root: str | None = None
) -> dict[str, Any]:
    """Score the chosen model of a run on `train`, `val` or `test`, and write what it says to `summary.json`.

    Training does not read the test pictures (unless its recipe says so): this is the way to them.
    """
    trained = load_trained(run, device)
    model, config = trained.model, trained.config
    if root is not None:
        config = config.model_copy(update={"data": config.data.model_copy(update={"root": root})})
    here = next(model.parameters()).device
    precision = pick_precision(config.train.precision, here)
    warnings: tuple[str, ...] = ()
    if split == "test":
        pictures, source = load_test(config.data)
        warnings = source.warnings
    else:
        splits = load_splits(config.data, config.train.seed)
        warnings = splits.warnings
        pictures = splits.train if split == "train" else splits.val
        if pictures is None:
            raise ConfigError(f"{run} has no validation pictures", ("data", "val"))
    scores = evaluate(model, place(pictures, here, picture_budget(here)), precision, config.data.image_size)
    folder = Run(run)
    if (summary := folder.summary()) is not None:
        summary[f"{split}_top1"] = scores["top1"]
        checkpoint.write_json(folder.summary_path, summary)
    remark = f"; {OPTIMISTIC}" if split == config.train.select == "test" else ""
    return {
        "run": str(run),
        "split": split,
        **scores,
        "pictures": len(pictures),
        "remark": remark,
        "warnings": list(warnings),
    }


def pictures_in(paths: Iterable[Path | str]) -> list[Path]:
    """The picture files among `paths`; folders are searched, in order. Raises ConfigError for none."""
    found: list[Path] = []
    known = Image.registered_extensions()
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
    run: Path | str, paths: Iterable[Path | str], top: int = 5, device: str = "auto"
) -> list[dict[str, Any]]:
    """The `top` most probable classes of each picture, in order: {picture, classes, probabilities}."""
    files = pictures_in(paths)
    trained = load_trained(run, device)
    model = trained.model
    here = next(model.parameters()).device
    precision = Precision(here, torch.float32)
    answers = []
    for start in range(0, len(files), 64):
        chunk = files[start : start + 64]
        images = torch.from_numpy(np.stack([decode(path, trained.store_size) for path in chunk])).to(here)
        probabilities = model(precision.layout(images)).logits.float().softmax(-1)
        best = probabilities.topk(min(top, probabilities.shape[1]))
        for path, values, labels in zip(chunk, best.values.tolist(), best.indices.tolist(), strict=True):
            names = [model.classes[label] for label in labels]
            answers.append({"picture": str(path), "classes": names, "probabilities": values})
    return answers


def read_summaries(folders: Iterable[Path | str]) -> list[dict[str, Any]]:
    """The summaries of finished runs."""
    return [read_json(Run(folder).summary_path) for folder in folders]
