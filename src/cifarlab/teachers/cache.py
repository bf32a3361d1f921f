"""`Replay`: a teacher's answers for views that come back, computed once and kept in memory-mapped files."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cifarlab.config import Config
from cifarlab.core.batch import Batch, Output
from cifarlab.core.errors import ConfigError
from cifarlab.core.plain import Plain
from cifarlab.data.arrays import Rows, digest, explain_refusal, read_arrays, write_record
from cifarlab.data.cache import Stopped, building, cache_folder, locked, progress
from cifarlab.data.splits import Split
from cifarlab.engine.batches import code_digest, make_batch, num_views
from cifarlab.teachers.teacher import PICTURES_PER_PASS, Answers, Teacher

# Raised whenever the files hold something else.
ANSWERS_VERSION = 2
# The views of so many pictures are kept beside the answers, to be compared when the answers are replayed.
WITNESSES = 32
TEACHER_CACHE = ("teacher", "cache")
Arrays = dict[str, Tensor]


class Replay:
    """A teacher whose answers are kept: `begin(view)` finds or computes them, `answer` looks them up.

    Each view lies in a folder of its own, written whole or not at all, under a key of all that the answers
    depend on; what does not match its key, its checksums or the views of today is made anew.
    """

    def __init__(self, teacher: Teacher, config: Config, split: Split, num_classes: int, fingerprint: str):
        views = num_views(config)
        assert views is not None, "only views that come back can be replayed"
        self.teacher, self.config, self.split, self.num_classes = teacher, config, split, num_classes
        self.key = _key(teacher, config, split, fingerprint, views)
        self.folder = cache_folder("teachers") / digest(self.key)
        with explain_refusal("the teacher's answers", self.folder, TEACHER_CACHE):
            # A place that takes no data is better known before the run begins.
            self.folder.mkdir(parents=True, exist_ok=True)
        # Mapped on the host; the current view is where the labels are.
        self._views: dict[int, tuple[Arrays, float | None]] = {}
        self._current: tuple[Arrays, float | None] | None = None

    def begin(self, view: int, stop: Callable[[], bool] = lambda: False) -> str | None:
        """Make a view's answers ready; a line for the user where they were computed.

        Raises Stopped as soon as `stop()` says so, ConfigError where the cache folder takes no data or the
        answers cannot be kept in float16.
        """
        said = None
        if view not in self._views:
            folder = self.folder / f"view_{view}"
            with locked(folder, stop):
                found = self._open(folder, view)
                if found is None:
                    again = "made anew, it did not match: " if folder.exists() else ""
                    begun = time.monotonic()
                    self._fill(folder, view, stop)
                    said = (
                        f"teacher: {again}{len(self.split):,} answers for view {view + 1} of "
                        f"{self.key['views']} in {time.monotonic() - begun:.1f} s, kept in {folder}"
                    )
                    found = self._open(folder, view)
                    if found is None:
                        raise ConfigError(
                            "the same view was made twice and differs: an augmentation does not take "
                            "its random numbers from `draws`; mend it, or say teacher.cache=false",
                            TEACHER_CACHE,
                        )
            self._views[view] = found
        arrays, scale = self._views[view]
        device = self.split.labels.device
        self._current = {name: array.to(device) for name, array in arrays.items()}, scale
        return said

    def answer(self, batch: Batch, positions: Tensor) -> Output:
        """What the teacher said of the samples at `positions` in the view that was begun, calibrated."""
        assert self._current is not None, "begin(view) comes first"
        arrays, scale = self._current
        rows = {name: array[positions.to(array.device)].float() for name, array in arrays.items()}
        embedding = rows.get("embedding", rows["logits"][:, 0, :0])
        return self.teacher.read(Answers(rows["logits"], embedding, scale=scale))

    def _open(self, folder: Path, view: int) -> tuple[Arrays, float | None] | None:
        """A view's answers and their scale, if they are whole and of the view as it is made today."""
        found = read_arrays(folder, self.key | {"view_number": view}, self._names())
        if found is None:
            return None
        arrays, record = found
        seen, scale = arrays.pop("witnesses"), record["scale"]
        # Code that makes a view may have changed under the same names and options.
        now = self._witnesses(view)
        if seen.shape != now.shape or (np.abs(seen.astype(np.int16) - now) > 1).mean() > 0.001:
            return None
        return {name: torch.from_numpy(array) for name, array in arrays.items()}, scale

    def _fill(self, folder: Path, view: int, stop: Callable[[], bool]) -> None:
        total, names = len(self.split), [name for name in self._names() if name != "witnesses"]
        title = f"asking the teacher about view {view + 1} of {self.key['views']} ({total:,} pictures)"
        scale: float | None = None
        with (
            explain_refusal("the teacher's answers", folder, TEACHER_CACHE),
            building(folder) as fresh,
            progress(title) as report,
            ExitStack() as open_files,
        ):
            files = {name: open_files.enter_context(Rows(fresh / f"{name}.npy", total)) for name in names}
            # An even number, so that the pairs of a mix that is part of the view stay together.
            for positions in torch.arange(total, device=self.split.rows.device).split(PICTURES_PER_PASS):
                if stop():
                    raise Stopped
                answers = self.teacher.ask(self._dress(positions, view).images)
                scale = None if answers.scale is None else float(answers.scale)
                for name in names:
                    files[name].write(_halved(getattr(answers, name)))
                report(int(positions[-1]) + 1, total)
            witnesses = self._witnesses(view)
            last = Rows(fresh / "witnesses.npy", len(witnesses))
            files["witnesses"] = open_files.enter_context(last)
            last.write(witnesses)
            checksums = {name: rows.finish() for name, rows in files.items()}
            key = self.key | {"view_number": view}
            write_record(fresh, {"key": key, "scale": scale, "checksums": checksums})

    def _names(self) -> list[str]:
        return [*self.key["answers"], "witnesses"]

    def _dress(self, positions: Tensor, view: int) -> Batch:
        config = self.config
        return make_batch(self.split, positions, config.data, config.train.seed, view, self.num_classes)

    def _witnesses(self, view: int) -> np.ndarray:
        """(n, 3, H, W) uint8: the views of the first few samples."""
        first = torch.arange(min(WITNESSES, len(self.split)), device=self.split.rows.device)
        return (self._dress(first, view).images * 255).round().to(torch.uint8).cpu().numpy()


def _halved(values: Tensor) -> np.ndarray:
    halved = values.to(torch.float16)
    if not halved.isfinite().all():
        raise ConfigError(
            "the teacher's answers are not finite in float16, in which they are kept; say "
            "teacher.precision=float32, or teacher.cache=false", TEACHER_CACHE)  # fmt: skip
    return halved.cpu().numpy()


def _key(teacher: Teacher, config: Config, split: Split, fingerprint: str, views: int) -> dict[str, Plain]:
    """All that a teacher's answers for a view depend on, as plain data."""
    data = config.dump()["data"]
    policy = {name: data[name] for name in ("augment", "mix", "freeze_views", "shuffle")}
    if not data["mix"]:
        policy.pop("shuffle")  # It says who is mixed with whom, and nothing else of a view.
    return {
        "version": ANSWERS_VERSION,
        "code": code_digest(config.imports, *(member.trained.saved.imports for member in teacher.members)),
        "teachers": [member.sha256 for member in teacher.members],
        "image_sizes": [member.image_size for member in teacher.members],
        "precisions": [f"{member.precision} on {member.precision.device.type}" for member in teacher.members],
        "answers": sorted({"logits"} | (teacher.lessons & {"embedding"})),
        "seed": config.train.seed,
        "data": fingerprint,
        "split": hashlib.blake2b(split.ids.cpu().numpy().tobytes(), digest_size=16).hexdigest(),
        "view": policy,
        "store_size": split.images.shape[-1],
        "views": views,
    }
