"""The scores of a run on a split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from cifarlab.core.errors import ConfigError, Failure
from cifarlab.core.registry import Spec
from cifarlab.data.placement import left_on_host, place_split
from cifarlab.engine.calibration import best_temperature, calibration
from cifarlab.engine.scoring import collect_outputs, scores
from cifarlab.evaluation.sealed import open_split
from cifarlab.evaluation.tta import Augmented
from cifarlab.models.sizes import check_sizes
from cifarlab.runs.folder import Run, recorded_run
from cifarlab.runs.ledger import count_openings
from cifarlab.runs.model import Trained, best_of, load_trained
from cifarlab.runs.summary import ScoreAtSize
from cifarlab.training.progress import OPTIMISTIC

# How long a score waits for another process that writes to the same summary.
SECONDS_TO_WAIT = 10.0


def evaluate(
    run: Path | str,
    *,
    split: str = "val",
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
    own_size, saved = trained.saved.image_size, trained.saved
    size = asked_image_size(trained, image_size)
    models: dict[str, nn.Module] = {"plain": trained.model}
    if tta is not None:
        models["tta"] = Augmented(trained.model, tta, size, saved.model.backbone.name, mean)
    here = next(trained.model.parameters()).device
    opened = open_split(run, trained, split, reader, alone=True)
    pictures, val = (
        place_split(opened.pictures, here),
        opened.learned.val if opened.learned is not None else None,
    )
    val = pictures if split == "val" else place_split(val, here) if val is not None else None
    found = {}
    for key, model in models.items():
        logits, labels, pace = collect_outputs(model, pictures, trained.precision, size)
        temperature = None
        if val is not None:
            own = (
                (logits, labels)
                if split == "val"
                else collect_outputs(model, val, trained.precision, size)[:2]
            )
            temperature = best_temperature(*own)
        measured = scores(logits, labels) | calibration(logits, labels, temperature)
        found[key] = {**measured, "forward_passes": getattr(model, "passes", 1), "images_per_second": pace}
    other_size = size if size != own_size else None
    kept_out = None
    if split == "test":
        kept_out = _write_test_score(best_of(run), found["plain"]["top1"], trained.epoch, other_size)
    written = split == "test" and kept_out is None
    remark = f"; {OPTIMISTIC}" if split == saved.select == "test" else ""
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


def asked_image_size(trained: Trained, image_size: int | None) -> int:
    """`image_size`, or the run's own. Raises ConfigError for a size that the model cannot take."""
    saved = trained.saved
    if image_size is None or image_size == saved.image_size:
        return saved.image_size
    check_sizes(trained.model, saved.model.backbone.name, (image_size,), ("image_size",))
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
            if summary is None or summary.chosen_epoch != epoch:
                return "the summary is of another model"
            if other_size is None:
                run.write_summary(summary.changed(test_top1=top1))
            else:
                by_size = {**(summary.by_image_size or {}), str(other_size): ScoreAtSize(test_top1=top1)}
                run.write_summary(summary.changed(by_image_size=by_size))
    except (ConfigError, Failure) as error:
        return str(error)
    return None
