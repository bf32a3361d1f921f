"""Reading runs: the scores of one, its answers for a picture."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cifarlab import checkpoint
from cifarlab.data.decoding import decode, suffixes
from cifarlab.data.splits import Split, load_splits, load_test, place
from cifarlab.device import Precision, pick_precision
from cifarlab.evaluate import evaluate
from cifarlab.models.sizes import check_sizes
from cifarlab.progress import OPTIMISTIC
from cifarlab.registry import ConfigError
from cifarlab.run import Run
from cifarlab.trained import Trained, load_trained


def evaluate_run(
    run: Path | str,
    split: str,
    device: str = "auto",
    root: str | None = None,
    image_size: int | None = None,
) -> dict[str, Any]:
    """Score the chosen model of a run on `train`, `val` or `test`; a test score goes into `summary.json`.

    Training does not read the test pictures (unless its recipe says so): this is the way to them. `written`
    is false where there is no summary to write to. image_size: pixels a side that the model sees, if not the
    run's own; a test score at another size stands under `by_image_size`. Raises ConfigError where train is
    not what the run was trained on, and for a size that the model cannot take.
    """
    trained = load_trained(run, device).at(root)
    own_size = trained.config.data.image_size
    size = _size_asked(trained, image_size)
    model, config = trained.model, trained.config
    here = next(model.parameters()).device
    precision = pick_precision(config.train.precision, here)
    pictures, warnings = open_split(run, trained, split)
    scores = evaluate(model, place(pictures, here), precision, size)
    other_size = size if size != own_size else None
    written = split == "test" and _write_test_score(Run(run), scores["top1"], trained.epoch, other_size)
    remark = f"; {OPTIMISTIC}" if split == config.train.select == "test" else ""
    if other_size is not None:
        remark = f" at {size} px, the run's own size is {own_size}{remark}"
        remark += "; in the summary under by_image_size, apart from test_top1" if written else ""
    return {
        "run": str(run),
        "split": split,
        **scores,
        "image_size": size,
        "pictures": len(pictures),
        "remark": remark,
        "written": written,
        "warnings": list(warnings),
    }


def open_split(run: Path | str, trained: Trained, split: str) -> tuple[Split, tuple[str, ...]]:
    """The pictures on which a run is scored, `train`, `val` or `test`, and warnings: the one way to test.

    Raises ConfigError where they are not what the run was trained on, or there are none.
    """
    config = trained.config
    if split == "test":
        pictures, source = load_test(config.data)
        warnings, fingerprint = source.warnings, {"test": source.fingerprint()}
    else:
        splits = load_splits(config.data, config.split_seed)
        warnings, fingerprint = splits.warnings, splits.fingerprint
        pictures = splits.train if split == "train" else splits.val
        if pictures is None:
            raise ConfigError(f"{run} has no validation pictures", ("data", "val"))
    _refuse_other_data(run, trained.fingerprint, fingerprint)
    return pictures, warnings


def _refuse_other_data(run: Path | str, trained: dict[str, str], here: dict[str, str]) -> None:
    changed = [part for part in trained if part in here and trained[part] != here[part]]
    if changed:
        raise ConfigError(
            f"{' and '.join(changed)} is not what {run} was trained on (another fingerprint): its validation "
            "pictures may be among its training pictures; name the old data with --root"
        )


def _size_asked(trained: Trained, image_size: int | None) -> int:
    """`image_size`, or the run's own. Raises ConfigError for a size that the model cannot take."""
    config = trained.config
    if image_size is None or image_size == config.data.image_size:
        return config.data.image_size
    check_sizes(trained.model, config.model.backbone.name, (image_size,), ("image_size",))
    return image_size


def _write_test_score(run: Run, top1: float, epoch: int, other_size: int | None) -> bool:
    """Put the score into the summary, unless the run has no summary, or one of another model.

    other_size: where the pictures were not seen at the run's own.
    """
    with run.locked():
        summary = run.summary()
        if summary is None or summary["chosen_epoch"] != epoch:
            return False
        found: dict[str, Any] = {"test_top1": top1}
        if other_size is not None:
            by_size = summary.get("by_image_size", {})
            found = {"by_image_size": {**by_size, str(other_size): found}}
        checkpoint.write_json(run.summary_path, {**summary, **found})
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
    run: Path | str,
    paths: Iterable[Path | str],
    top: int = 5,
    device: str = "auto",
    image_size: int | None = None,
) -> list[dict[str, Any]]:
    """The `top` most probable classes of each picture, in order: {picture, classes, probabilities}.

    image_size: pixels a side that the model sees, if not the run's own. Raises ConfigError as `load` does,
    for paths without pictures, and for a size that the model cannot take.
    """
    files = pictures_in(paths)
    trained = load_trained(run, device)
    model, size = trained.model, _size_asked(trained, image_size)
    here = next(model.parameters()).device
    precision = Precision(here, torch.float32)
    answers = []
    for start in range(0, len(files), 64):
        chunk = files[start : start + 64]
        images = torch.from_numpy(np.stack([decode(path, trained.store_size) for path in chunk])).to(here)
        probabilities = model(precision.layout(images), size).logits.float().softmax(-1)
        best = probabilities.topk(min(top, probabilities.shape[1]))
        for path, values, labels in zip(chunk, best.values.tolist(), best.indices.tolist(), strict=True):
            names = [model.classes[label] for label in labels]
            answers.append({"picture": str(path), "classes": names, "probabilities": values})
    return answers
