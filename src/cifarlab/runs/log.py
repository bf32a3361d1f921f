"""The log of a run: `metrics.jsonl`, and the same numbers for TensorBoard."""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias, cast

from cifarlab.core.files import writing
from cifarlab.core.plain import Plain, is_dict

# The row of an epoch in the log: `epoch`, `step`, `lr` and scores such as `val/top1`, by name.
EpochRow: TypeAlias = "dict[str, int | float]"


class RunLog:
    """Writer of `metrics.jsonl` (a JSON object per line, one for each epoch) and of a copy for TensorBoard.

    The constructor removes the rows that were written after the last checkpoint, since a resumed run writes
    them again. It also writes the copy for TensorBoard anew, from the remaining rows.

    Args:
        folder: Folder of the run.
        size: Size of `metrics.jsonl` in bytes at the last checkpoint. 0 if there is no checkpoint.
    """

    def __init__(self, folder: Path, *, size: int = 0):
        self.path = folder / "metrics.jsonl"
        with writing(self.path):
            with self.path.open("ab") as file:
                # A damaged log may be shorter than `size`, and `truncate` would pad it with zeros.
                file.truncate(min(size, file.tell()))
            shutil.rmtree(folder / "tensorboard", ignore_errors=True)
            self._board = Board(folder / "tensorboard")
            for row in read_log(self.path):
                self._board.add(row)

    def append(self, row: EpochRow) -> None:
        """Append a row, which must have the key `epoch`.

        Raises:
            Failure: The row cannot be written.
        """
        with writing(self.path):
            with self.path.open("ab") as file:
                file.write(json.dumps(row, allow_nan=False).encode() + b"\n")
                # On disk before the next checkpoint, which records the log's size with this line.
                file.flush()
                os.fsync(file.fileno())
            self._board.add(row)

    @property
    def size(self) -> int:
        """Size of `metrics.jsonl` in bytes."""
        return self.path.stat().st_size


class Board:
    """Writer of a run's numbers for TensorBoard, with their keys as tags.

    torch's `SummaryWriter` is not used: its thread dies if the disk is full, and its methods then wait
    forever.
    """

    def __init__(self, folder: Path):
        folder.mkdir(parents=True)
        self.path = folder / f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}"
        self._write({"file_version": "brain.Event:2"})

    def _write(self, *events: Mapping[str, object]) -> None:
        # Imported here, since the import takes a second and only training needs it.
        from tensorboard.compat.proto import event_pb2  # pyright: ignore[reportMissingTypeStubs]
        from tensorboard.summary.writer import record_writer  # pyright: ignore[reportMissingTypeStubs]

        # Neither has types.
        messages, files = cast("Any", event_pb2), cast("Any", record_writer)
        with self.path.open("ab") as file:
            records = files.RecordWriter(file)
            for event in events:
                records.write(messages.Event(wall_time=time.time(), **event).SerializeToString())

    def add(self, row: Mapping[str, Plain]) -> None:
        """Write each number of a row as a scalar; the step is `row["epoch"]`."""
        from torch.utils.tensorboard import summary

        scalar = cast("Any", summary).scalar  # It has no types.
        numbers = [(k, v) for k, v in row.items() if k != "epoch" and isinstance(v, int | float)]
        self._write(*({"step": row["epoch"], "summary": scalar(key, value)} for key, value in numbers))


def is_epoch(row: Mapping[str, Plain]) -> bool:
    """Tell whether a row has the form that training writes.

    In such a row all values are numbers, and it has the epoch, the training accuracy and the training loss.
    """
    numbers = all(isinstance(value, int | float) for value in row.values())
    return numbers and {"epoch", "train/top1", "train/loss/total"} <= row.keys()


def read_log(path: Path) -> list[EpochRow]:
    """Read the rows of a `metrics.jsonl` up to the first invalid line. [] if the file is missing."""
    rows: list[EpochRow] = []
    if not path.exists():  # The file was lost, or the run is a soup, which has no log.
        return rows
    for line in path.read_bytes().splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            break
        if not is_dict(row) or "epoch" not in row:
            break
        rows.append(cast("EpochRow", row))
    return rows
