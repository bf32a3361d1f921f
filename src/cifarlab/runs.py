"""Reading runs: the scores of one, its answers for a picture."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from cifarlab import checkpoint
from cifarlab.calibration import best_temperature, calibration
from cifarlab.data.decoding import decode, suffixes
from cifarlab.data.splits import Pictures, Split, Splits, left_on_host, load_splits, load_test, place, read
from cifarlab.device import Precision
from cifarlab.evaluate import collect, pictures_per_batch, scores
from cifarlab.ledger import count_openings, record_opening
from cifarlab.models.sizes import check_sizes
from cifarlab.progress import OPTIMISTIC
from cifarlab.registry import ConfigError, Failure, Spec
from cifarlab.run import Run, recorded_run
from cifarlab.trained import Trained, best_of, load_trained, refuse_other_classes
from cifarlab.tta import Augmented

# How long a score waits for another process that writes to the same summary.
SECONDS_TO_WAIT = 10.0


@dataclass(frozen=True)
class Opened:
    """Pictures to score a run on, and warnings.

    learned: what it was trained and validated on; None where that cannot be read, and test can.
    """

    pictures: Split
    learned: Splits | None
    warnings: tuple[str, ...]


def evaluate_run(
    run: Path | str,
    split: str,
    device: str = "auto",
    root: str | None = None,
    image_size: int | None = None,
    tta: Spec | None = None,
    mean: str = "logits",
    reader: str = "eval",
    imports: Sequence[Path | str] = (),
) -> dict[str, Any]:
    """Score the chosen model of a run on `train`, `val` or `test`; a test score goes into `summary.json`.

    Training does not read the test pictures (unless its recipe says so): this is the way to them. Each
    opening is written to the ledger beside the runs, as `reader`'s, and `test_opened` counts them. `written`
    is false where there is no summary to write to. image_size: pixels a side that the model sees, if not the
    run's own; a test score at another size stands under `by_image_size`. tta: score it with test-time
    augmentation, too, its views averaged as `mean` says (MEANS); the same scores then stand under `tta`.
    The temperature is fitted on validation. imports: as of `load`. Raises ConfigError as `load` and
    `open_split` do, and for a size that the model cannot take; on test a train part that cannot be read is a
    warning.
    """
    trained = load_trained(run, device, imports).at(root)
    own_size, config = trained.config.data.image_size, trained.config
    size = _size_asked(trained, image_size)
    models: dict[str, nn.Module] = {"plain": trained.model}
    if tta is not None:
        models["tta"] = Augmented(trained.model, tta, size, config.model.backbone.name, mean)
    here = next(trained.model.parameters()).device
    opened = open_split(run, trained, split, reader, alone=True)
    pictures, val = place(opened.pictures, here), opened.learned.val if opened.learned is not None else None
    val = pictures if split == "val" else place(val, here) if val is not None else None
    found = {}
    for key, model in models.items():
        logits, labels, pace = collect(model, pictures, trained.precision, size)
        temperature = None
        if val is not None:
            own = (logits, labels) if split == "val" else collect(model, val, trained.precision, size)[:2]
            temperature = best_temperature(*own)
        measured = scores(logits, labels) | calibration(logits, labels, temperature)
        found[key] = {**measured, "forward_passes": getattr(model, "passes", 1), "images_per_second": pace}
    other_size = size if size != own_size else None
    kept_out = None
    if split == "test":
        kept_out = _write_test_score(best_of(run), found["plain"]["top1"], trained.epoch, other_size)
    written = split == "test" and kept_out is None
    remark = f"; {OPTIMISTIC}" if split == config.train.select == "test" else ""
    if other_size is not None:
        remark = f" at {size} px, the run's own size is {own_size}{remark}"
        remark += "; in the summary under by_image_size, apart from test_top1" if written else ""
    return {
        "run": str(run),
        "split": split,
        **found["plain"],
        "tta": {**tta.dump(), "mean": mean, **found["tta"]} if tta is not None else None,
        "image_size": size,
        "pictures": len(pictures),
        "remark": remark,
        "written": written,
        "not_written": kept_out,
        "test_opened": count_openings(recorded_run(best_of(run).parent)),
        "warnings": [*opened.warnings, *left_on_host(pictures, val)],
    }


def open_split(run: Path | str, trained: Trained, split: str, reader: str, *, alone: bool = False) -> Opened:
    """What a run is scored on, its `train`, `val` or `test` pictures: the one way to test.

    reader: in whose name an opening of test is written to the ledger. alone: test may be opened where train
    cannot be read, as beside a checkpoint that was moved. Raises ConfigError, before an opening is written
    down, where what can be read of the data is not what the run was trained on, their classes are not its
    own, or there are no such pictures.
    """
    if split == "test":
        learned, warnings = _at_hand(run, trained) if alone else (read_splits(run, trained), ())
        pictures, source = load_test(trained.config.data)
        fingerprint = source.fingerprint()
        _refuse_other_data(run, trained, {"test": fingerprint}, source.classes)
        digest = checkpoint.file_digest(trained.file)
        record_opening(recorded_run(trained.file.parent), reader, fingerprint, trained.epoch, digest)
        return Opened(pictures, learned, (*source.warnings, *warnings))
    learned = read_splits(run, trained)
    pictures = learned.train if split == "train" else learned.val
    if pictures is None:
        raise ConfigError(f"{run} has no validation pictures", ("data", "val"))
    return Opened(pictures, learned, learned.warnings)


def read_splits(run: Path | str, trained: Trained) -> Splits:
    """What a run was trained and validated on. Raises ConfigError where it is there no more."""
    splits = load_splits(trained.config.data, trained.config.split_seed)
    _refuse_other_splits(run, trained, splits)
    return splits


def _at_hand(run: Path | str, trained: Trained) -> tuple[Splits | None, tuple[str, ...]]:
    """As `read_splits`; None, and a warning, where there is nothing that can be read."""
    try:
        splits = load_splits(trained.config.data, trained.config.split_seed)
    except ConfigError as error:
        # What is there and cannot be split as it was has changed.
        if (train := _train_alone(trained)) is not None:
            _refuse_other_data(run, trained, {"train": train.fingerprint()}, train.classes)
        return None, (f"no temperature is fitted: {error}",)
    _refuse_other_splits(run, trained, splits)
    return splits, ()


def _train_alone(trained: Trained) -> Pictures | None:
    with contextlib.suppress(ConfigError):
        return read(trained.config.data, "train")
    return None


def _refuse_other_splits(run: Path | str, trained: Trained, splits: Splits) -> None:
    # A validation part that is gone has changed, too: others, which were trained on, would stand in for it.
    # One that is new would stand in for those that were held out.
    none = dict.fromkeys(("train", "val"), "")
    _refuse_other_data(run, trained, none | splits.fingerprint, splits.classes)


def _refuse_other_data(
    run: Path | str, trained: Trained, fingerprint: dict[str, str], classes: Sequence[str]
) -> None:
    data, fix = trained.config.data, "; name the data that it was trained on with --root"
    here = f"the data set {data.root or data.dataset.name}"
    refuse_other_classes(run, trained.model.classes, classes[: data.classes], here, fix)
    # Few runs have read test.
    known = {"train": "", "val": "", "test": fingerprint.get("test")} | trained.fingerprint
    if changed := [part for part, found in fingerprint.items() if known[part] != found]:
        raise ConfigError(
            f"{' and '.join(changed)} of {here} is not what {run} was trained on (another fingerprint): "
            f"what it is scored on may be among its training pictures{fix}"
        )


def _size_asked(trained: Trained, image_size: int | None) -> int:
    """`image_size`, or the run's own. Raises ConfigError for a size that the model cannot take."""
    config = trained.config
    if image_size is None or image_size == config.data.image_size:
        return config.data.image_size
    check_sizes(trained.model, config.model.backbone.name, (image_size,), ("image_size",))
    return image_size


def _write_test_score(file: Path, top1: float, epoch: int, other_size: int | None) -> str | None:
    """Put the score of a checkpoint into its run's summary; what keeps it out, if anything does.

    other_size: where the pictures were not seen at the run's own. Whatever is wrong with the summary, the
    pictures have been looked at: the score must reach whoever asked for it.
    """
    run = Run(file.parent)
    if file.name != run.best_path.name or not run.summary_path.exists():
        return "the run is not finished" if run.started else "it is a checkpoint by itself"
    try:
        with run.locked(SECONDS_TO_WAIT):
            summary = run.summary()
            if summary is None or summary["chosen_epoch"] != epoch:
                return "the summary is of another model"
            found: dict[str, Any] = {"test_top1": top1}
            if other_size is not None:
                by_size = summary.get("by_image_size", {})
                found = {"by_image_size": {**by_size, str(other_size): found}}
            checkpoint.write_json(run.summary_path, {**summary, **found})
    except (ConfigError, Failure) as error:
        return str(error)
    return None


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
    model, size = trained.model, _size_asked(trained, image_size)
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
