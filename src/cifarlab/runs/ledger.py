"""The ledger, `ledger.jsonl`: a record of every opening of the test set.

An opening is one evaluation of a model on the test pictures. The ledger lies in the folder of all runs.
"""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeAlias, cast

from filelock import FileLock

from cifarlab.core.errors import Failure, reason_of
from cifarlab.runs.folder import Run
from cifarlab.runs.naming import LEDGER, spelled

# An entry of the ledger, as `record_opening` writes it.
Opening: TypeAlias = "dict[str, str | int | None]"


def record_opening(
    run: Run, reader: str, fingerprint: str, epoch: int, *, weights_sha256: str | None = None
) -> None:
    """Record an opening of the test set.

    Call this before the model sees the test pictures.

    Args:
        run: The run.
        reader: Name of the command that evaluates, e.g. `evaluate`. `train` if the recipe selects its epoch
            by test accuracy.
        fingerprint: Hash of the test pictures and their labels.
        epoch: Epoch whose weights are evaluated, from 1.
        weights_sha256: sha256 of the checkpoint. None if the weights are not in a checkpoint.

    Raises:
        Failure: The ledger cannot be written. The test pictures must then not be read.
    """
    path = _folder(run) / LEDGER
    entry = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "run": _key(run),
        "reader": reader,
        "fingerprint": fingerprint,
        "epoch": epoch,
        "weights_sha256": weights_sha256,
    }
    try:
        with FileLock(path.with_suffix(".lock")), path.open("ab+") as file:
            # A crash may have left a line without its end. Do not append to it.
            torn = file.tell() and os.pread(file.fileno(), 1, file.tell() - 1) != b"\n"
            file.write((b"\n" if torn else b"") + json.dumps(entry).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        reason = reason_of(error)
        raise Failure(f"{path}: cannot be written ({reason}), so the test set is not read") from error


def openings(runs: Path) -> list[Opening]:
    """Read from the ledger in the folder `runs` how the test set was used.

    Returns:
        A dict for each evaluation of a model on test pictures, oldest first. Its keys are `time`, `run`,
        `reader` (the command), `fingerprint`, `epoch` and `weights_sha256`. An unreadable line gives {}.

    Raises:
        Failure: The file cannot be read.
    """
    path = runs / LEDGER
    if not path.exists():
        return []
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Failure(
            f"{path}: cannot be read ({reason_of(error)}), so uses of the test set cannot be counted"
        ) from error
    entries: list[Opening] = []
    for line in content.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            entry = None
        entries.append(cast("Opening", entry) if isinstance(entry, dict) else {})
    return entries


def count_openings(run: Run) -> dict[str, int]:
    """Count the openings of the test set.

    Returns:
        `run`: number of openings by models of this run. `runs`: number of openings by models of any run that
        the same ledger records.
    """
    entries, key = openings(_folder(run)), _key(run)
    return {"run": sum(spelled(str(entry.get("run"))) == key for entry in entries), "runs": len(entries)}


def _folder(run: Run) -> Path:
    """Return the folder of the ledger that records a run.

    It is the folder of all runs. If `run.folder` is not the folder of a run but holds a standalone
    checkpoint, the ledger lies in `run.folder` itself, since the folders above it may be unrelated.
    """
    return run.runs if run.started else run.folder


def _key(run: Run) -> str:
    return f"{run.name}/{run.folder.absolute().name}"
