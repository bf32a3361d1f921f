"""The pictures of a run, and access to the test set.

The test set is sealed: training does not read it unless the recipe says so, and each use of it is recorded in
the ledger (`cifarlab.runs.ledger`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cifarlab.core import files
from cifarlab.core.errors import ConfigError, unknown
from cifarlab.data.splits import PARTS, Pictures, Split, Splits, load_splits, load_test, read_data
from cifarlab.runs.folder import recorded_run
from cifarlab.runs.ledger import record_opening
from cifarlab.runs.model import Trained, refuse_other_classes

# The splits that some commands score; the others score all `PARTS`.
HELD_OUT_PARTS = ("val", "test")


@dataclass(frozen=True)
class Opened:
    """The pictures to score a run on, and warnings.

    Attributes:
        pictures: The pictures to score.
        learned: The run's training and validation pictures. None if only the test pictures can be read.
        warnings: Warnings, one line each.
    """

    pictures: Split
    learned: Splits | None
    warnings: tuple[str, ...]


def refuse_unknown_split(split: str, *, known: Sequence[str] = PARTS) -> None:
    """Raise ConfigError if a split is not one of `known`."""
    if split not in known:
        raise ConfigError(f"{split}: {unknown(split, known)}", ("split",))


def open_split(run: Path | str, trained: Trained, split: str, reader: str, *, alone: bool = False) -> Opened:
    """Return a run's `train`, `val` or `test` pictures.

    All scoring on test goes through this function. It checks that the data are those that the run was trained
    on. Then it records the use of the test set in the ledger.

    Args:
        run: Name of the run for error messages.
        trained: The loaded run.
        split: The pictures to return: train, val or test.
        reader: Name to record in the ledger with a use of the test set.
        alone: Return test even if the training pictures cannot be read, e.g. for a checkpoint that was moved.

    Raises:
        ConfigError: The data or their classes differ from the run's, or there are no pictures of this split.
    """
    refuse_unknown_split(split)
    if split == "test":
        learned, warnings = _splits_if_readable(run, trained) if alone else (read_splits(run, trained), ())
        with moved_data_named(trained):
            pictures, source = load_test(trained.saved.data)
        fingerprint = source.fingerprint()
        _refuse_other_data(run, trained, {"test": fingerprint}, source.classes)
        digest = files.file_digest(trained.file)
        record_opening(
            recorded_run(trained.file.parent), reader, fingerprint, trained.epoch, weights_sha256=digest
        )
        told = learned.warnings if learned is not None else ()
        return Opened(pictures, learned, tuple(dict.fromkeys((*source.warnings, *told, *warnings))))
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
    with moved_data_named(trained):
        splits = load_splits(trained.saved.data, trained.saved.split_seed)
    _refuse_other_splits(run, trained, splits)
    return splits


@contextlib.contextmanager
def moved_data_named(*runs: Trained) -> Iterator[None]:
    """Name the option `--root` if reading fails and the folder of a run's data no longer exists.

    Raises:
        ConfigError: The block raised one.
    """
    try:
        yield
    except ConfigError:
        for root in (trained.saved.data.root for trained in runs):
            if root is not None and not Path(root).exists():
                fix = "if the data set was moved, name its folder: --root FOLDER"
                raise ConfigError(f"{root} does not exist; {fix}", ("data", "root")) from None
        raise


def _splits_if_readable(run: Path | str, trained: Trained) -> tuple[Splits | None, tuple[str, ...]]:
    """Read splits like `read_splits`; if unreadable, return None and a warning."""
    try:
        splits = load_splits(trained.saved.data, trained.saved.split_seed)
    except ConfigError as error:
        # Training pictures that can be read but no longer split the same way have changed.
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
    # A missing or a new validation part is a change, too. Without the old part, training pictures would be
    # used for validation; a new part would replace the pictures that were held out.
    none = dict.fromkeys(("train", "val"), "")
    _refuse_other_data(run, trained, none | splits.fingerprint, splits.classes)


def _refuse_other_data(
    run: Path | str, trained: Trained, fingerprint: dict[str, str], classes: Sequence[str]
) -> None:
    data, fix = trained.saved.data, "; name the data that it was trained on with --root"
    here = f"the data set {data.root or data.dataset.name}"
    refuse_other_classes(run, trained.model.classes, classes[: data.classes], here=here, fix=fix)
    # Most runs have no fingerprint of test.
    known = {"train": "", "val": "", "test": fingerprint.get("test")} | trained.fingerprint
    if changed := [part for part, found in fingerprint.items() if known[part] != found]:
        raise ConfigError(
            f"{' and '.join(changed)} of {here} is not what {run} was trained on (another fingerprint): "
            f"the scored pictures may be among its training pictures{fix}"
        )
