"""The scores of a run on a split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from cifarlab.core.device import Precision
from cifarlab.core.errors import ConfigError, Failure
from cifarlab.core.registry import Spec
from cifarlab.data.placement import left_on_host, place_split
from cifarlab.data.splits import Split
from cifarlab.engine.calibration import best_temperature
from cifarlab.engine.scoring import collect_outputs
from cifarlab.evaluation.score_records import AugmentedScores, Measured, Scores, measure
from cifarlab.evaluation.sealed import open_split, refuse_unknown_split
from cifarlab.evaluation.tta import Augmented, parse
from cifarlab.models.sizes import check_sizes
from cifarlab.runs.folder import Run, recorded_run
from cifarlab.runs.ledger import count_openings
from cifarlab.runs.model import Trained, best_of, load_trained
from cifarlab.runs.summary import ScoreAtSize
from cifarlab.training.progress import OPTIMISTIC

# How long to wait for another process that writes to the same summary.
SECONDS_TO_WAIT = 10.0


def evaluate(
    run: Run | Path | str,
    *,
    split: str = "val",
    device: str = "auto",
    root: str | None = None,
    image_size: int | None = None,
    tta: Spec | str | None = None,
    mean: str | None = None,
    reader: str = "eval",
    imports: Sequence[Path | str] = (),
) -> Scores:
    """Score a run's model on `train`, `val` or `test`.

    It is the model of the epoch that `train.select` chose. Each use of the test pictures is recorded in the
    ledger, a file in the folder of all runs (`cifarlab.runs.ledger`). A test score is also written to the
    run's `summary.json`. The temperature for calibration is fitted on validation.

    Args:
        run: The run, its folder, or its best.pt.
        split: The pictures to score: train, val or test.
        device: auto, cpu, cuda or cuda:1.
        root: Folder of the data set. Default: the folder that the run read it from.
        image_size: Side length of the model's input in pixels. Default: the run's own. A test score at
            another size is written to `by_image_size` of the summary.
        tta: Also score with this test-time augmentation: a name, or `{name: ..., option: ...}`, as on the
            command line. Its scores are in the field `tta` of the result.
        mean: What is averaged over the views of `tta`: logits or probabilities. Default: logits.
        reader: Name to record in the ledger with a use of the test pictures.
        imports: Python files or modules that register the run's custom parts.

    Returns:
        The scores. If the training pictures cannot be read, a test score has a warning and no temperature.

    Raises:
        ConfigError: The run cannot be loaded, its data have changed, it has no pictures of this split, or the
            model cannot take the size.
        Failure: The ledger cannot be written (`cifarlab.core.errors`). No test picture has been scored.

    Example:
        >>> run = cifarlab.train("demo", {"train.epochs": 2})
        >>> scores = cifarlab.evaluate(run, tta="flip")
        >>> scores.top1 <= scores.top5, scores.tta.forward_passes
        (True, 2)
        >>> cifarlab.evaluate(run, split="test").top1 == run.summary().test_top1
        True
    """
    run = str(run)
    refuse_unknown_split(split)
    if mean is not None and tta is None:
        raise ConfigError(f"{mean} needs views to average; name them with tta, e.g. flip", ("mean",))
    mean = "logits" if mean is None else mean
    if isinstance(tta, str):
        tta = parse(tta)
    trained = load_trained(run, device=device, imports=imports).with_data_root(root)
    own_size, saved = trained.saved.image_size, trained.saved
    size = asked_image_size(trained, image_size)
    views = (
        Augmented(trained.model, tta, size, saved.model.backbone.name, mean=mean) if tta is not None else None
    )
    here = next(trained.model.parameters()).device
    opened = open_split(run, trained, split, reader, alone=True)
    pictures, val = (
        place_split(opened.pictures, here),
        opened.learned.val if opened.learned is not None else None,
    )
    val = pictures if split == "val" else place_split(val, here) if val is not None else None
    plain = _timed(trained.model, pictures, val, trained.precision, size)
    augmented = None
    if tta is not None and views is not None:
        timed = _timed(views, pictures, val, trained.precision, size)
        augmented = AugmentedScores.model_validate({**tta.dump(), "mean": mean, **timed})
    other_size = size if size != own_size else None
    kept_out = None
    if split == "test":
        kept_out = _write_test_score(best_of(run), plain["top1"], trained.epoch, other_size)
    written = split == "test" and kept_out is None
    remark = f"; {OPTIMISTIC}" if split == saved.select == "test" else ""
    if other_size is not None:
        remark = f" at {size} px, the run's own size is {own_size}{remark}"
        remark += "; written to by_image_size of the summary, not to test_top1" if written else ""
    return Scores(
        run=run,
        split=split,
        **plain,
        tta=augmented,
        image_size=size,
        pictures=len(pictures),
        remark=remark,
        written=written,
        not_written=kept_out,
        test_opened=count_openings(recorded_run(best_of(run).parent)),
        warnings=[*opened.warnings, *left_on_host(pictures, val)],
    )


class _Timed(Measured):
    forward_passes: int
    images_per_second: float


def _timed(model: nn.Module, pictures: Split, val: Split | None, precision: Precision, size: int) -> _Timed:
    """Score a model on pictures, and measure its speed.

    The temperature is fitted on `val`. If `val` is None, there is no temperature.
    """
    logits, labels, pace = collect_outputs(model, pictures, precision, size)
    temperature = None
    if val is not None:
        own = (logits, labels) if val is pictures else collect_outputs(model, val, precision, size)[:2]
        temperature = best_temperature(*own)
    passes = model.passes if isinstance(model, Augmented) else 1
    return {**measure(logits, labels, temperature), "forward_passes": passes, "images_per_second": pace}


def asked_image_size(trained: Trained, image_size: int | None) -> int:
    """Return `image_size`, or by default the run's own.

    Raises:
        ConfigError: The model cannot take the size.
    """
    saved = trained.saved
    if image_size is None or image_size == saved.image_size:
        return saved.image_size
    check_sizes(trained.model, saved.model.backbone.name, (image_size,), ("image_size",))
    return image_size


def _write_test_score(file: Path, top1: float, epoch: int, other_size: int | None) -> str | None:
    """Write a checkpoint's test score to its run's summary.

    A damaged summary is not an error: the test pictures have been scored, so the caller must get the score.

    Args:
        file: The checkpoint.
        top1: Accuracy on test.
        epoch: Epoch of the checkpoint.
        other_size: Side length of the scored pictures in pixels, if it is not the run's own.

    Returns:
        Why the score was not written; None if it was written.
    """
    run = Run(file.parent)
    if file.name != run.best_path.name or not run.summary_path.exists():
        return "the run is not finished" if run.started else "it is a standalone checkpoint"
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
