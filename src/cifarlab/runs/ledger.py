"""The ledger, `ledger.jsonl`: a record of every use of the test set."""

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
    """Record that a run's model is about to see the test pictures.

    Args:
        run: The run.
        reader: `train` for a recipe that chooses its epoch on test, else the name of the command.
        fingerprint: Fingerprint of the test pictures.
        epoch: Epoch of the model, from 1.
        weights_sha256: sha256 of the checkpoint, if there is one.

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
    """Read the ledger in a folder, normally that of all runs.

    Returns:
        Its entries, oldest first. An unreadable line counts as an opening, too, and gives {}.

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
    """Count openings of the test pictures: {run: of this run, runs: of all}."""
    entries, key = openings(_folder(run)), _key(run)
    return {"run": sum(spelled(str(entry.get("run"))) == key for entry in entries), "runs": len(entries)}


def _folder(run: Run) -> Path:
    """Return the folder of the ledger.

    A standalone checkpoint keeps its ledger beside itself: its parent folders may be unrelated.
    """
    return run.runs if run.started else run.folder


def _key(run: Run) -> str:
    return f"{run.name}/{run.folder.absolute().name}"
