"""Creation of the summary of a finished run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from cifarlab.config import Config
from cifarlab.data.splits import Split, Splits
from cifarlab.engine.step import Engine
from cifarlab.runs.log import EpochRow
from cifarlab.runs.summary import Summary


@dataclass(frozen=True)
class Cost:
    """The cost of a run. The fields have the meaning of those in `Summary`."""

    seconds: float
    macs: int | None
    peak_memory_bytes: int


def summarise(
    config: Config,
    engine: Engine,
    splits: Splits,
    *,
    best: EpochRow,
    epochs_run: int,
    cost: Callable[[], Cost],
) -> Summary:
    """Score the chosen epoch on unaugmented training pictures and return the summary.

    Args:
        config: The configuration.
        engine: The engine. Its evaluated model must have the weights of the chosen epoch.
        splits: The pictures.
        best: Log row of the chosen epoch.
        epochs_run: Number of epochs that were trained.
        cost: Returns the cost of the run so far. It is called after the scoring, so that it includes the
            scoring's time.
    """
    train_top1 = engine.score(splits.train)["top1"]
    val_top1 = best.get("val/top1")
    by_size = {}
    if config.data.multi_scale is not None:
        by_size["val_top1_by_image_size"] = _val_top1_by_image_size(config, engine, splits.val, val_top1)
    spent = cost()
    return Summary(
        seed=config.train.seed,
        epochs=config.train.epochs,
        epochs_run=epochs_run,
        ended_by=_end(config, epochs_run),
        chosen_on=config.train.select,
        chosen_epoch=int(best["epoch"]),
        train_top1=train_top1,
        val_top1=val_top1,
        test_top1=best.get("test/top1"),
        gap=train_top1 - val_top1 if val_top1 is not None else None,
        parameters=sum(p.numel() for p in engine.model.parameters()),
        data_fingerprint=splits.fingerprint["train"],
        seconds=spent.seconds,
        images_per_second=epochs_run * engine.plan.samples_per_epoch / spent.seconds,
        macs=spent.macs,
        peak_memory_bytes=spent.peak_memory_bytes,
        **by_size,
    )


def _end(config: Config, epochs_run: int) -> str:
    """Return the option that ended the run, e.g. `train.patience`."""
    if epochs_run < config.train.last_epoch:
        return "train.patience"
    return "train.epochs" if epochs_run == config.train.epochs else "train.stop"


def _val_top1_by_image_size(
    config: Config, engine: Engine, val: Split | None, val_top1: float | None
) -> dict[str, float] | None:
    """Return {side length: validation accuracy} at each training size and at `data.image_size`.

    `val_top1` is the accuracy at `data.image_size`, which is known. If the run has no validation pictures,
    `val` and `val_top1` are None, and so is the result.
    """
    if val is None or val_top1 is None:
        return None
    others = {size: engine.score(val, size)["top1"] for size in config.data.train_sizes}
    return {str(size): top1 for size, top1 in sorted({**others, config.data.image_size: val_top1}.items())}
