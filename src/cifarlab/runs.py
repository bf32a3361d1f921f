"""Reading runs: the scores of one, its answers for a picture."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cifarlab import checkpoint
from cifarlab.data.decoding import decode, suffixes
from cifarlab.data.splits import load_splits, load_test, place
from cifarlab.device import Precision, pick_precision
from cifarlab.evaluate import evaluate
from cifarlab.progress import OPTIMISTIC
from cifarlab.registry import ConfigError
from cifarlab.run import Run
from cifarlab.trained import load_trained


def evaluate_run(
    run: Path | str, split: str, device: str = "auto", root: str | None = None
) -> dict[str, Any]:
    """Score the chosen model of a run on `train`, `val` or `test`; a test score goes into `summary.json`.

    Training does not read the test pictures (unless its recipe says so): this is the way to them. `written`
    is false where there is no summary to write to. Raises ConfigError where train is not what the run was
    trained on.
    """
    trained = load_trained(run, device)
    model, config = trained.model, trained.config
    if root is not None:
        config = config.model_copy(update={"data": config.data.model_copy(update={"root": root})})
    here = next(model.parameters()).device
    precision = pick_precision(config.train.precision, here)
    if split == "test":
        pictures, source = load_test(config.data)
        warnings, fingerprint = source.warnings, {"test": source.fingerprint()}
    else:
        splits = load_splits(config.data, config.train.seed)
        warnings, fingerprint = splits.warnings, splits.fingerprint
        pictures = splits.train if split == "train" else splits.val
        if pictures is None:
            raise ConfigError(f"{run} has no validation pictures", ("data", "val"))
    _refuse_other_data(run, trained.fingerprint, fingerprint)
    scores = evaluate(model, place(pictures, here), precision, config.data.image_size)
    written = split == "test" and _write_test_score(Run(run), scores["top1"], trained.epoch)
    remark = f"; {OPTIMISTIC}" if split == config.train.select == "test" else ""
    return {
        "run": str(run),
        "split": split,
        **scores,
        "pictures": len(pictures),
        "remark": remark,
        "written": written,
        "warnings": list(warnings),
    }


def _refuse_other_data(run: Path | str, trained: dict[str, str], here: dict[str, str]) -> None:
    changed = [part for part in trained if part in here and trained[part] != here[part]]
    if changed:
        raise ConfigError(
            f"{' and '.join(changed)} is not what {run} was trained on (another fingerprint): its validation "
            "pictures may be among its training pictures; name the old data with --root"
        )


def _write_test_score(run: Run, top1: float, epoch: int) -> bool:
    """Put the score into the summary, unless the run has no summary, or one of another model."""
    with run.locked():
        summary = run.summary()
        if summary is None or summary["chosen_epoch"] != epoch:
            return False
        checkpoint.write_json(run.summary_path, {**summary, "test_top1": top1})
        return True


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
