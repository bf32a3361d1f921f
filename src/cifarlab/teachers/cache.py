"""A cache of a teacher's answers, for training in which the same augmented pictures recur.

A view holds an augmented copy of every training picture. If `data.views` is n, epochs repeat n views. An
answer is the teacher's output for a picture, before calibration.
"""

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

# Increase it whenever the content of the files changes.
ANSWERS_VERSION = 2
# The views of this many pictures are stored beside the answers. When these are loaded, the stored views are
# compared with fresh ones.
WITNESSES = 32
TEACHER_CACHE = ("teacher", "cache")
Arrays = dict[str, Tensor]


class Replay:
    """A teacher with cached answers.

    `begin(view)` loads or computes the answers for a view, and `answer` looks them up. Each view has its own
    folder of memory-mapped files, which is written atomically. The name of the folder is a hash of all that
    the answers depend on. Each folder also holds checksums and some of the view's pictures. If any of these
    do not match, the answers are computed again.

    Args:
        teacher: The teacher.
        config: The configuration of the student. Its views must recur, see `num_views`.
        split: The training pictures.
        num_classes: Number of classes.
        fingerprint: Fingerprint of the training part, see `Pictures.fingerprint`.

    Raises:
        ConfigError: The cache folder cannot be written.
    """

    def __init__(self, teacher: Teacher, config: Config, split: Split, num_classes: int, fingerprint: str):
        views = num_views(config)
        assert views is not None, "only recurring views can be replayed"
        self.teacher, self.config, self.split, self.num_classes = teacher, config, split, num_classes
        self.answers = sorted({"logits"} | (teacher.outputs & {"embedding"}))
        self.key = _key(teacher, config, split, fingerprint, views)
        self.folder = cache_folder("teachers") / digest(self.key)
        with explain_refusal("the teacher's answers", self.folder, TEACHER_CACHE):
            # Fail now, before the run begins, if the folder cannot be written.
            self.folder.mkdir(parents=True, exist_ok=True)
        # Memory-mapped on the host. The answers of the current view are on the device of the labels.
        self._views: dict[int, tuple[Arrays, float | None]] = {}
        self._current: tuple[Arrays, float | None] | None = None

    def begin(self, view: int, stop: Callable[[], bool] = lambda: False) -> str | None:
        """Load the answers for a view, or compute and store them.

        Args:
            view: Index of the view, from 0.
            stop: Called before each batch. If it returns True, the computation ends.

        Returns:
            A line for the user if the answers were computed, None if they were loaded.

        Raises:
            Stopped: `stop` returned True.
            ConfigError: The cache folder cannot be written, or an answer is not finite in float16.
        """
        said = None
        if view not in self._views:
            folder = self.folder / f"view_{view}"
            with locked(folder, stop=stop):
                found = self._open(folder, view)
                if found is None:
                    again = "the cache did not match; computed again: " if folder.exists() else ""
                    begun = time.monotonic()
                    self._fill(folder, view, stop)
                    said = (
                        f"teacher: {again}{len(self.split):,} answers for view {view + 1} of "
                        f"{self.key['views']} in {time.monotonic() - begun:.1f} s, kept in {folder}"
                    )
                    found = self._open(folder, view)
                    if found is None:
                        raise ConfigError(
                            "the same view differs when computed twice: an augmentation does not take its "
                            "random numbers from `draws`; fix it, or set teacher.cache=false",
                            TEACHER_CACHE,
                        )
            self._views[view] = found
        arrays, scale = self._views[view]
        device = self.split.labels.device
        self._current = {name: array.to(device) for name, array in arrays.items()}, scale
        return said

    def answer(self, batch: Batch, positions: Tensor) -> Output:  # noqa: ARG002  as `Source`
        """Calibrate and return the cached answers for some samples.

        The view is the one of the last call of `begin`.

        Args:
            batch: Not used.
            positions: (B,) int64, positions of the samples in the split.
        """
        assert self._current is not None, "begin(view) comes first"
        arrays, scale = self._current
        rows = {name: array[positions.to(array.device)].float() for name, array in arrays.items()}
        embedding = rows.get("embedding", rows["logits"][:, 0, :0])
        return self.teacher.read(Answers(rows["logits"], embedding, scale=scale))

    def _open(self, folder: Path, view: int) -> tuple[Arrays, float | None] | None:
        """Load the answers for a view, and their `Answers.scale`.

        The result is None if the files are missing or do not match.
        """
        found = read_arrays(folder, self.key | {"view_number": view}, self._names())
        if found is None:
            return None
        arrays, record = found
        seen, scale = arrays.pop("witnesses"), record["scale"]
        # The augmentation's code may have changed under the same names and options.
        now = self._witnesses(view)
        if seen.shape != now.shape or (np.abs(seen.astype(np.int16) - now) > 1).mean() > 0.001:
            return None
        return {name: torch.from_numpy(array) for name, array in arrays.items()}, scale

    def _fill(self, folder: Path, view: int, stop: Callable[[], bool]) -> None:
        total, names = len(self.split), [name for name in self._names() if name != "witnesses"]
        title = f"computing teacher answers for view {view + 1} of {self.key['views']} ({total:,} pictures)"
        scale: float | None = None
        with (
            explain_refusal("the teacher's answers", folder, TEACHER_CACHE),
            building(folder) as fresh,
            progress(title) as report,
            ExitStack() as open_files,
        ):
            files = {name: open_files.enter_context(Rows(fresh / f"{name}.npy", total)) for name in names}
            # The number per pass is even, so that pairs of mixed pictures stay together.
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
        return [*self.answers, "witnesses"]

    def _dress(self, positions: Tensor, view: int) -> Batch:
        config = self.config
        return make_batch(self.split, positions, config.data, config.train.seed, view, self.num_classes)

    def _witnesses(self, view: int) -> np.ndarray:
        """Return the first samples' augmented pictures, (n, 3, H, W) uint8.

        They are stored with the answers. If stored and new ones differ, the augmentation's code has changed.
        """
        first = torch.arange(min(WITNESSES, len(self.split)), device=self.split.rows.device)
        return (self._dress(first, view).images * 255).round().to(torch.uint8).cpu().numpy()


def _halved(values: Tensor) -> np.ndarray:
    halved = values.to(torch.float16)
    if not halved.isfinite().all():
        raise ConfigError(
            "the teacher's answers are stored in float16, and some are not finite in it; set "
            "teacher.precision=float32, or teacher.cache=false", TEACHER_CACHE)  # fmt: skip
    return halved.cpu().numpy()


def _key(teacher: Teacher, config: Config, split: Split, fingerprint: str, views: int) -> dict[str, Plain]:
    """Return all that a teacher's answers depend on, in JSON-compatible form."""
    data = config.dump()["data"]
    policy = {name: data[name] for name in ("augment", "mix", "freeze_views", "shuffle")}
    if not data["mix"]:
        policy.pop("shuffle")  # It affects a view only through the pairs that are mixed.
    return {
        "version": ANSWERS_VERSION,
        "code": code_digest(config.imports, *(member.trained.saved.imports for member in teacher.members)),
        "teachers": [member.sha256 for member in teacher.members],
        "image_sizes": [member.image_size for member in teacher.members],
        "precisions": [f"{member.precision} on {member.precision.device.type}" for member in teacher.members],
        "answers": sorted({"logits"} | (teacher.outputs & {"embedding"})),
        "seed": config.train.seed,
        "data": fingerprint,
        "split": hashlib.blake2b(split.ids.cpu().numpy().tobytes(), digest_size=16).hexdigest(),
        "view": policy,
        "store_size": split.images.shape[-1],
        "views": views,
    }
