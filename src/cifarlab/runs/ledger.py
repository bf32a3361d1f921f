"""The ledger beside the runs, or a lone checkpoint: when the sealed test pictures were looked at, by what."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock
from pydantic import JsonValue

from cifarlab.core.errors import Failure
from cifarlab.runs.folder import Run
from cifarlab.runs.naming import LEDGER, spelled


def record_opening(
    run: Run, reader: str, fingerprint: str, epoch: int, weights_sha256: str | None = None
) -> None:
    """Write down that a run's model is about to see the test pictures; raises Failure where it cannot be.

    reader: train (a recipe that chooses its epoch on test), or the command. fingerprint: of the test
    pictures. weights_sha256: of the checkpoint, where there is one.
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
            # A line that a crash cut off stays a line of its own.
            torn = file.tell() and os.pread(file.fileno(), 1, file.tell() - 1) != b"\n"
            file.write((b"\n" if torn else b"") + json.dumps(entry).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        reason = error.strerror or error
        raise Failure(f"{path}: cannot be written ({reason}), so the test pictures stay sealed") from error


def openings(runs: Path) -> list[dict[str, JsonValue]]:
    """The ledger's entries, first to last; a line that cannot be read is an opening all the same, as {}.

    Raises Failure for a file that cannot be read at all.
    """
    path = runs / LEDGER
    if not path.exists():
        return []
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Failure(
            f"{path}: cannot be read ({error.strerror or error}), so openings cannot be counted"
        ) from error
    entries = []
    for line in content.splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            entry = None
        entries.append(entry if isinstance(entry, dict) else {})
    return entries


def count_openings(run: Run) -> dict[str, int]:
    """How often the test pictures were looked at: for this `run`, and for all `runs` beside it."""
    entries, key = openings(_folder(run)), _key(run)
    return {"run": sum(spelled(str(entry.get("run"))) == key for entry in entries), "runs": len(entries)}


def _folder(run: Run) -> Path:
    """Where the ledger lies: above a lone checkpoint are folders that are no business of its."""
    return run.runs if run.started else run.folder


def _key(run: Run) -> str:
    return f"{run.name}/{run.folder.absolute().name}"
