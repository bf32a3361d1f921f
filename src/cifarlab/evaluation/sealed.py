"""A run's pictures, and the way to the sealed test set."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cifarlab.core import files
from cifarlab.core.errors import ConfigError
from cifarlab.data.splits import Pictures, Split, Splits, load_splits, load_test, read_data
from cifarlab.runs.folder import recorded_run
from cifarlab.runs.ledger import record_opening
from cifarlab.runs.model import Trained, refuse_other_classes


@dataclass(frozen=True)
class Opened:
    """Pictures to score a run on, and warnings.

    learned: what it was trained and validated on; None where that cannot be read, and test can.
    """

    pictures: Split
    learned: Splits | None
    warnings: tuple[str, ...]


def open_split(run: Path | str, trained: Trained, split: str, reader: str, *, alone: bool = False) -> Opened:
    """What a run is scored on, its `train`, `val` or `test` pictures: the one way to test.

    reader: in whose name an opening of test is written to the ledger. alone: test may be opened where train
    cannot be read, as beside a checkpoint that was moved. Raises ConfigError, before an opening is written
    down, where what can be read of the data is not what the run was trained on, their classes are not its
    own, or there are no such pictures.
    """
    if split == "test":
        learned, warnings = _at_hand(run, trained) if alone else (read_splits(run, trained), ())
        pictures, source = load_test(trained.saved.data)
        fingerprint = source.fingerprint()
        _refuse_other_data(run, trained, {"test": fingerprint}, source.classes)
        digest = files.file_digest(trained.file)
        record_opening(
            recorded_run(trained.file.parent), reader, fingerprint, trained.epoch, weights_sha256=digest
        )
        return Opened(pictures, learned, (*source.warnings, *warnings))
    learned = read_splits(run, trained)
    pictures = learned.train if split == "train" else learned.val
    if pictures is None:
        raise ConfigError(f"{run} has no validation pictures", ("data", "val"))
    return Opened(pictures, learned, learned.warnings)


def read_splits(run: Path | str, trained: Trained) -> Splits:
    """Return the pictures that a run was trained and validated on.

    Raises:
        ConfigError: The pictures are missing or have changed since the training.
    """
    splits = load_splits(trained.saved.data, trained.saved.split_seed)
    _refuse_other_splits(run, trained, splits)
    return splits


def _at_hand(run: Path | str, trained: Trained) -> tuple[Splits | None, tuple[str, ...]]:
    """As `read_splits`; None, and a warning, where there is nothing that can be read."""
    try:
        splits = load_splits(trained.saved.data, trained.saved.split_seed)
    except ConfigError as error:
        # What is there and cannot be split as it was has changed.
        if (train := _train_alone(trained)) is not None:
            _refuse_other_data(run, trained, {"train": train.fingerprint()}, train.classes)
        return None, (f"no temperature is fitted: {error}",)
    _refuse_other_splits(run, trained, splits)
    return splits, ()


def _train_alone(trained: Trained) -> Pictures | None:
    with contextlib.suppress(ConfigError):
        return read_data(trained.saved.data, "train")
    return None


def _refuse_other_splits(run: Path | str, trained: Trained, splits: Splits) -> None:
    # A validation part that is gone has changed, too: others, which were trained on, would stand in for it.
    # One that is new would stand in for those that were held out.
    none = dict.fromkeys(("train", "val"), "")
    _refuse_other_data(run, trained, none | splits.fingerprint, splits.classes)


def _refuse_other_data(
    run: Path | str, trained: Trained, fingerprint: dict[str, str], classes: Sequence[str]
) -> None:
    data, fix = trained.saved.data, "; name the data that it was trained on with --root"
    here = f"the data set {data.root or data.dataset.name}"
    refuse_other_classes(run, trained.model.classes, classes[: data.classes], here=here, fix=fix)
    # Few runs have read test.
    known = {"train": "", "val": "", "test": fingerprint.get("test")} | trained.fingerprint
    if changed := [part for part, found in fingerprint.items() if known[part] != found]:
        raise ConfigError(
            f"{' and '.join(changed)} of {here} is not what {run} was trained on (another fingerprint): "
            f"what it is scored on may be among its training pictures{fix}"
        )
