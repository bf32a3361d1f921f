"""`Replay`: a teacher's answers for views that come back, computed once and kept in memory-mapped files."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cifarlab.config import Config
from cifarlab.data.places import building, cache_folder, locked, progress
from cifarlab.data.splits import Split
from cifarlab.records import Batch, Output
from cifarlab.registry import ConfigError
from cifarlab.teachers.teacher import PICTURES_PER_PASS, Answers, Teacher
from cifarlab.views import dress, num_views

# Raised whenever the files hold something else.
VERSION = 1
# The views of so many pictures are kept beside the answers, to be compared when the answers are replayed.
WITNESSES = 32


class Stopped(Exception):
    """Filling was asked to stop; what was not finished is gone."""


@dataclass(frozen=True)
class View:
    """The answers for one view of all samples: arrays by name, rows by position in the split."""

    arrays: dict[str, Tensor]

    def answers(self, positions: Tensor) -> Answers:
        rows = {name: array[positions.to(array.device)].float() for name, array in self.arrays.items()}
        return Answers(rows["logits"], rows.get("embedding", rows["logits"].flatten(1)))


class Replay:
    """A teacher whose answers are kept: `begin(view)` finds or computes them, `answer` looks them up.

    Each view lies in a folder of its own, written whole or not at all, under a key of all that the answers
    depend on; what does not match its key, its checksums or the views of today is made anew. seconds: spent
    on computing.
    """

    def __init__(self, teacher: Teacher, config: Config, split: Split, num_classes: int, fingerprint: str):
        views = num_views(config)
        assert views is not None, "only views that come back can be replayed"
        self.teacher, self.config, self.split, self.num_classes = teacher, config, split, num_classes
        self.key = _key(teacher, config, split, fingerprint, views)
        digest = hashlib.blake2b(json.dumps(self.key, sort_keys=True).encode(), digest_size=16).hexdigest()
        self.folder = cache_folder("teachers") / digest
        self.seconds = 0.0
        self._views: dict[int, View] = {}
        self._current: View | None = None

    def begin(self, view: int, stop: Callable[[], bool] = lambda: False) -> str | None:
        """Make a view's answers ready; a line for the user where they were computed.

        Raises Stopped as soon as `stop()` says so, ConfigError where the cache folder takes no data.
        """
        said = None
        if view not in self._views:
            folder = self.folder / f"view_{view}"
            with locked(folder):
                found = self._open(folder, view)
                if found is None:
                    begun = time.monotonic()
                    again = "made anew, it did not match: " if folder.exists() else ""
                    self._fill(folder, view, stop)
                    seconds = time.monotonic() - begun
                    self.seconds += seconds
                    said = (
                        f"teacher: {again}{len(self.split):,} answers for view {view + 1} of "
                        f"{self.key['views']} in {seconds:.1f} s, kept in {folder}"
                    )
                    found = self._open(folder, view)
                    assert found is not None, "what was just written matches"
            self._views[view] = found
        self._current = self._views[view]
        return said

    def answer(self, batch: Batch, positions: Tensor) -> Output:
        """What the teacher said of the samples at `positions` in the view that was begun, calibrated."""
        assert self._current is not None, "begin(view) comes first"
        answers = self._current.answers(positions)
        return self.teacher.read(answers)

    def _open(self, folder: Path, view: int) -> View | None:
        """A view's answers, if they are whole and of the view as it is dressed today."""
        try:
            record = json.loads((folder / "key.json").read_text())
            if record["key"] != self.key or record["view"] != view:
                return None
            arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="c") for name in record["checksums"]}
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if any(_checksum(array) != record["checksums"][name] for name, array in arrays.items()):
            return None
        # Code that dresses a view may have changed under the same names and options.
        seen, now = arrays.pop("witnesses"), self._witnesses(view)
        if seen.shape != now.shape or (np.abs(seen.astype(np.int16) - now) > 1).mean() > 0.001:
            return None
        self.teacher.scale = record["scale"]
        device = self.split.labels.device
        # Copy on write: torch has no read-only tensors.
        return View({name: torch.from_numpy(array).to(device) for name, array in arrays.items()})

    def _fill(self, folder: Path, view: int, stop: Callable[[], bool]) -> None:
        wanted = {"logits"} | (self.config.lessons & {"embedding"})
        total = len(self.split)
        arrays: dict[str, np.ndarray] = {}
        title = f"asking the teacher about view {view + 1} of {self.key['views']} ({total:,} pictures)"
        try:
            with building(folder) as fresh, progress(title) as report:
                # An even number, so that the pairs of a mix that is part of the view stay together.
                for positions in torch.arange(total, device=self.split.rows.device).split(PICTURES_PER_PASS):
                    if stop():
                        raise Stopped
                    answers = self.teacher.ask(self._dress(positions, view).images)
                    for name in wanted:
                        rows: Tensor = getattr(answers, name).to(torch.float16).cpu()
                        if name not in arrays:
                            arrays[name] = np.lib.format.open_memmap(
                                fresh / f"{name}.npy", "w+", np.float16, (total, *rows.shape[1:])
                            )
                        arrays[name][positions.cpu().numpy()] = rows.numpy()
                    report(int(positions[-1]) + 1, total)
                np.save(fresh / "witnesses.npy", self._witnesses(view))
                arrays["witnesses"] = self._witnesses(view)
                checksums = {name: _checksum(array) for name, array in arrays.items()}
                for array in arrays.values():
                    if isinstance(array, np.memmap):
                        array.flush()
                record = {"key": self.key, "view": view, "scale": self.teacher.scale, "checksums": checksums}
                (fresh / "key.json").write_text(json.dumps(record, indent=1))
        except OSError as error:
            reason = error.strerror or error
            raise ConfigError(
                f"cannot keep the teacher's answers in {folder} ({reason}); name another place by "
                "CIFARLAB_CACHE, or say teacher.cache=false", ("teacher", "cache")) from None  # fmt: skip

    def _dress(self, positions: Tensor, view: int) -> Batch:
        config = self.config
        return dress(self.split, positions, config.data, config.train.seed, view, self.num_classes)

    def _witnesses(self, view: int) -> np.ndarray:
        """(n, 3, H, W) uint8: the views of the first few samples."""
        first = torch.arange(min(WITNESSES, len(self.split)), device=self.split.rows.device)
        return (self._dress(first, view).images * 255).round().to(torch.uint8).cpu().numpy()


def _key(teacher: Teacher, config: Config, split: Split, fingerprint: str, views: int) -> dict[str, Any]:
    """All that a teacher's answers for a view depend on, as plain data."""
    data = config.dump()["data"]
    policy = {name: data[name] for name in ("augment", "mix", "freeze_views", "shuffle")}
    if not data["mix"]:
        policy.pop("shuffle")  # It says who is mixed with whom, and nothing else of a view.
    return {
        "version": VERSION,
        "teachers": [member.sha256 for member in teacher.members],
        "image_sizes": [member.image_size for member in teacher.members],
        "precisions": [f"{member.precision} on {member.precision.device.type}" for member in teacher.members],
        "answers": sorted({"logits"} | (config.lessons & {"embedding"})),
        "seed": config.train.seed,
        "data": fingerprint,
        "split": hashlib.blake2b(split.ids.cpu().numpy().tobytes(), digest_size=16).hexdigest(),
        "view": policy,
        "store_size": split.images.shape[-1],
        "views": views,
    }


def _checksum(array: np.ndarray) -> str:
    return hashlib.blake2b(np.ascontiguousarray(array).data, digest_size=16).hexdigest()
