"""The log of a run: `metrics.jsonl` and TensorBoard."""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
from pathlib import Path
from typing import TypeAlias

from cifarlab.core.files import writing

# What training logs of an epoch: `epoch`, `step`, `lr` and scores such as `val/top1`, by name.
EpochRow: TypeAlias = "dict[str, int | float]"


class RunLog:
    """Appends one JSON object a line to `metrics.jsonl` and mirrors it to TensorBoard.

    size: bytes of the log that a checkpoint vouches for. What lies beyond is cut off, and TensorBoard's
    files are written anew from what remains, so that an interrupted run and an uninterrupted one leave the
    same log.
    """

    def __init__(self, folder: Path, size: int = 0):
        self.path = folder / "metrics.jsonl"
        with writing(self.path):
            with self.path.open("ab") as file:
                # A log that was lost or cut off is shorter: to truncate it would lengthen it, with zeros.
                file.truncate(min(size, file.tell()))
            shutil.rmtree(folder / "tensorboard", ignore_errors=True)
            self._board = Board(folder / "tensorboard")
            for row in read_log(self.path):
                self._board.add(row)

    def append(self, row: EpochRow) -> None:
        """Write a row; it must hold `epoch`. Raises Failure where it cannot be written."""
        with writing(self.path):
            with self.path.open("ab") as file:
                file.write(json.dumps(row, allow_nan=False).encode() + b"\n")
                # The checkpoint that follows vouches for this line.
                file.flush()
                os.fsync(file.fileno())
            self._board.add(row)

    @property
    def size(self) -> int:
        return self.path.stat().st_size


class Board:
    """A file of a run's numbers for TensorBoard, each under its key.

    Torch's writer hands them to a thread that dies where the disk is full, and then waits for it for ever.
    """

    def __init__(self, folder: Path):
        folder.mkdir(parents=True)
        self.path = folder / f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}.{os.getpid()}"
        self._write({"file_version": "brain.Event:2"})

    def _write(self, *events: dict[str, object]) -> None:
        # Imported here: it takes a second, and only a training run needs it.
        from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
        from tensorboard.summary.writer.record_writer import RecordWriter

        with self.path.open("ab") as file:
            records = RecordWriter(file)
            for event in events:
                records.write(Event(wall_time=time.time(), **event).SerializeToString())

    def add(self, row: EpochRow) -> None:
        """Write a row's numbers at its `epoch`."""
        from torch.utils.tensorboard.summary import scalar

        numbers = [(k, v) for k, v in row.items() if k != "epoch" and isinstance(v, int | float)]
        self._write(*({"step": row["epoch"], "summary": scalar(key, value)} for key, value in numbers))


def is_epoch(row: EpochRow) -> bool:
    """Whether a row is what training logs of an epoch: numbers, those of the training batches among them."""
    numbers = all(isinstance(value, int | float) for value in row.values())
    return numbers and {"epoch", "train/top1", "train/loss/total"} <= row.keys()


def read_log(path: Path) -> list[EpochRow]:
    """The rows of a `metrics.jsonl`; what follows a line that is none is left out; a lost file is empty."""
    rows = []
    if not path.exists():  # Lost; or a soup's, which was never trained.
        return rows
    for line in path.read_bytes().splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            break
        if not isinstance(row, dict) or "epoch" not in row:
            break
        rows.append(row)
    return rows
