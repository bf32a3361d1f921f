"""Running means kept on the device, and the log of a run: `metrics.jsonl` and TensorBoard."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cifarlab.core.batch import Batch, Output
from cifarlab.core.errors import Failure


class Means:
    """Weighted means of scalars, summed on the device; reading them is the only host sync.

    The first step whose values are not all finite is remembered, so that a run that diverged can be stopped
    without a look at the device after each step.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self._sums: dict[str, Tensor] = {}
        self._weight = torch.zeros((), dtype=torch.float64, device=device)
        self._bad_step = torch.full((), -1, dtype=torch.int64, device=device)

    def reset(self) -> None:
        """Begin anew, in the same tensors: a captured step adds to those that it knows."""
        for tensor in (self._weight, *self._sums.values()):
            tensor.zero_()
        self._bad_step.fill_(-1)

    def add(self, values: Mapping[str, Tensor], weight: int, step: int | Tensor) -> None:
        """Add scalars of a batch of `weight` samples; they must be finite."""
        self._weight += weight
        for key, value in values.items():
            weighted = value.detach().double() * weight
            if key in self._sums:
                self._sums[key] += weighted
            else:
                self._sums[key] = weighted
        self.watch(values.values(), step)

    def watch(self, values: Iterable[Tensor], step: int | Tensor) -> None:
        """Remember `step` if one of its scalars is not finite, unless an earlier step had such a one."""
        finite = torch.stack([value.detach().float() for value in values]).isfinite().all()
        self._bad_step.copy_(torch.where((self._bad_step < 0) & ~finite, step, self._bad_step))

    def read(self) -> dict[str, float]:
        """The means so far; synchronises with the device."""
        weight, *sums = torch.stack([self._weight, *self._sums.values()]).tolist()
        return dict(zip(self._sums, (total / weight for total in sums), strict=True)) if weight else {}

    def first_bad_step(self) -> int | None:
        """The first step with a value that is not finite; synchronises with the device."""
        step = int(self._bad_step)
        return step if step >= 0 else None

    def state_dict(self) -> dict[str, Any]:
        return {"sums": self._sums, "weight": self._weight}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._sums = {key: value.to(self.device, copy=True) for key, value in state["sums"].items()}
        self._weight.copy_(torch.as_tensor(state["weight"]))


def batch_accuracy(batch: Batch, output: Output) -> Tensor:
    """Share of pictures whose largest logit is the label's, as a scalar on the device."""
    return (output.logits.argmax(-1) == batch.labels).float().mean()


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

    def append(self, row: dict[str, Any]) -> None:
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

    def _write(self, *events: dict[str, Any]) -> None:
        # Imported here: it takes a second, and only a training run needs it.
        from tensorboard.compat.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
        from tensorboard.summary.writer.record_writer import RecordWriter

        with self.path.open("ab") as file:
            records = RecordWriter(file)
            for event in events:
                records.write(Event(wall_time=time.time(), **event).SerializeToString())

    def add(self, row: dict[str, Any]) -> None:
        """Write a row's numbers at its `epoch`."""
        from torch.utils.tensorboard.summary import scalar

        numbers = [(k, v) for k, v in row.items() if k != "epoch" and isinstance(v, int | float)]
        self._write(*({"step": row["epoch"], "summary": scalar(key, value)} for key, value in numbers))


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an error of the system's into the Failure that says where it happened."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise Failure(f"{path}: cannot be written ({reason}); what was saved before is whole") from error


def is_epoch(row: dict[str, Any]) -> bool:
    """Whether a row is what training logs of an epoch: numbers, those of the training batches among them."""
    numbers = all(isinstance(value, int | float) for value in row.values())
    return numbers and {"epoch", "train/top1", "train/loss/total"} <= row.keys()


def read_log(path: Path) -> list[dict[str, Any]]:
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
