"""`Activations`: the outputs of a network's frozen first part, computed once and stored in files."""

from __future__ import annotations

import copy
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cifarlab.config import Config
from cifarlab.core.batch import Batch
from cifarlab.core.device import Precision, picture_budget
from cifarlab.core.errors import ConfigError
from cifarlab.core.plain import Plain
from cifarlab.data.arrays import Rows, digest, explain_refusal, is_sealed, read_arrays, write_record
from cifarlab.data.cache import Stopped, building, cache_folder, locked, progress
from cifarlab.data.splits import Split, Splits
from cifarlab.engine.batches import make_batch, num_views, view_epoch
from cifarlab.engine.frozen.eligibility import KEEP_ACTIVATIONS
from cifarlab.engine.frozen.keys import frozen_digest, split_key
from cifarlab.engine.frozen.tail import Border, Tail, activations_at, no_images
from cifarlab.engine.scoring import pictures_per_batch
from cifarlab.models.classifier import Classifier

# How far recomputed activations may differ from kept ones, as a share of the largest: another number of
# threads sums in another order.
ACTIVATION_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 3e-2, torch.float16: 1e-2}
# How many values of a thousand may differ by more: rounding may move a value across a step of its number
# format.
STRAYS = 1


class Activations:
    """The stored activations of a network's frozen first part, for each split and view.

    A view is one augmented version of every picture. Clean pictures are those without augmentation. Each
    view's activations are computed on first use and stored in one folder, written completely or not at all. A
    row of the stored array holds one picture's activations, in the dtype of their computation (bfloat16 under
    autocast). The folder also holds a key, which states all that the activations depend on: frozen weights,
    code, pictures, augmentation, seed, view, size, precision. They are computed again if key or checksums do
    not match, or if the network now gives other activations for the first pictures of the split.
    """

    def __init__(
        self, config: Config, model: Classifier, border: Border, splits: Splits, precision: Precision
    ):
        self.config, self.model, self.border, self.precision = config, model, border, precision
        self.splits = splits
        self.folder = cache_folder("activations")
        self._opened: dict[Path, Tensor] = {}
        self._current: tuple[Path, Tensor] | None = None
        self._keys: dict[int, dict[str, Plain]] = {}
        self._tails: dict[nn.Module, Tail] = {}
        self._weights: str | None = None
        self._said: list[str] = []

    def announce(self) -> str:
        """Return a message with the size and folder of the activations.

        Call it after the frozen weights are loaded. It writes no activations.

        Raises:
            ConfigError: The folder cannot be written, or has too little space.
        """
        with explain_refusal("activations", self.folder, KEEP_ACTIVATIONS):
            # Fail before the run begins if the folder cannot be created.
            self.folder.mkdir(parents=True, exist_ok=True)
            free = shutil.disk_usage(self.folder).free
        count = self.border.bytes_per_picture
        places = {self._place(split, view): len(split) * count for split, view in self._needed()}
        total = sum(places.values())
        missing = sum(size for place, size in places.items() if not is_sealed(place))
        numbers = f"{torch.Size(self.border.shape).numel():,} numbers a picture in {self._dtype}"
        what = f"activations of the frozen part, up to {self.border.name} ({numbers}, {_shown(total)} in all)"
        if missing > free:
            raise ConfigError(
                f"{what} need {_shown(missing)} in {self.folder}, but only {_shown(free)} are free; "
                "free some, set CIFARLAB_CACHE to another folder, lower data.views, freeze more of the "
                "network, or set train.keep_activations=false", KEEP_ACTIVATIONS)  # fmt: skip
        if not missing:
            return f"{what} are read from {self.folder}"
        return f"{what} will be computed once and stored in {self.folder} ({_shown(missing)} to write)"

    def begin(self, epoch: int, stop: Callable[[], bool] = lambda: False) -> list[str]:
        """Load or compute an epoch's activations. Return a message for each computation.

        Raises:
            Stopped: `stop()` has returned True.
            ConfigError: The folder cannot be written.
        """
        self._rows(self.splits.train, view_epoch(self.config, epoch), stop)
        if self.splits.val is not None:
            self._rows(self.splits.val, None, stop)
        return self.lines()

    def lines(self) -> list[str]:
        """Return a message for each computation since `lines` was last called."""
        said, self._said = self._said, []
        return said

    def batch(self, positions: Tensor, epoch: int) -> Batch:
        """Return the training batch at `positions` (B,), with activations replacing pictures."""
        split = self.splits.train
        rows = self._on_device(split, view_epoch(self.config, epoch))
        activations = self._take(rows, positions)
        positions = positions.to(split.labels.device, non_blocking=True)
        labels, ids = split.labels[positions], split.ids[positions]
        targets = F.one_hot(labels, self.model.num_classes).float()
        return Batch(no_images(len(labels), labels.device), labels, targets, ids, activations=activations)

    def clean(self, split: Split) -> Callable[[Tensor], Tensor] | None:
        """Return a function from positions (B,) to activations of pictures without augmentation.

        Returns None if the split is not one of this run's.
        """
        known = (self.splits.train, self.splits.val, self.splits.test)
        if not any(split is other for other in known):
            return None
        rows = self._rows(split, None)
        return lambda positions: self._take(rows, positions)

    def tail(self, model: nn.Module) -> Tail:
        """Return the part of `model` that takes the activations as input."""
        if model not in self._tails:
            assert isinstance(model, Classifier)
            self._tails[model] = Tail(model, self.border)
        return self._tails[model]

    def of_first(self, count: int) -> Activations:
        """Compute the first `count` training pictures' activations; keep them in memory, for timing."""
        split, few = self.splits.train, copy.copy(self)
        first = Split(split.images, split.rows[:count], split.labels[:count], split.ids[:count])
        few.splits = replace(self.splits, train=first, val=None, test=None)
        few._keys, few._opened, few._current = {}, {}, None
        rows = torch.cat(
            [self.border.to_rows(self._compute(first, part, None)) for part in self._chunks(first)]
        )
        few._opened = {few._place(first, view): rows for view in (None, 0)}
        return few

    def knows(self, model: nn.Module) -> bool:
        """Tell whether the stored activations are valid for `model`.

        They are valid if its frozen part has the same weights as when they were computed.
        """
        if model is self.model:
            return True
        pairs = (
            (one.state_dict(), other.state_dict())
            for name in self.border.modules
            for one, other in [(self.model.get_submodule(name), model.get_submodule(name))]
        )
        return all(torch.equal(mine[key], its[key]) for mine, its in pairs for key in mine)

    @property
    def _dtype(self) -> str:
        return str(self.border.dtype).removeprefix("torch.")

    def _needed(self) -> Iterator[tuple[Split, int | None]]:
        """Yield each (split, view) that a run uses; view None means clean."""
        config, views = self.config, num_views(self.config)
        assert views is not None, "only views that come back are kept"
        for view in range(min(views, config.train.last_epoch)):
            yield self.splits.train, view
        for split in (self.splits.val, self.splits.test, self.splits.train):
            if split is not None:
                yield split, None

    def _place(self, split: Split, view: int | None) -> Path:
        """Return the folder of a split's activations; view None means clean pictures."""
        augmented = view is not None and bool(self.config.data.augment)
        name = f"view_{self._policy()}_{view}" if augmented else "clean"
        return self.folder / digest(self._key(split)) / name

    def _policy(self) -> str:
        """Return a digest of the augmentation options and the seed."""
        plain = {"augment": self.config.dump()["data"]["augment"], "seed": self.config.train.seed}
        return digest(plain)[:12]

    def _key(self, split: Split) -> dict[str, Plain]:
        """Return the key of a split's stored activations; see `split_key`."""
        if id(split) not in self._keys:
            self._weights = self._weights or frozen_digest(self.model, self.border)
            self._keys[id(split)] = split_key(
                self.config, self.border, self.splits, split, self.precision, self._weights
            )
        return self._keys[id(split)]

    def _on_device(self, split: Split, view: int) -> Tensor:
        """Return a view's stored rows, on the GPU if they fit."""
        rows, place = self._rows(split, view), self._place(split, view)
        if self._current is None or self._current[0] != place:
            self._current = None  # Free the memory before the next rows need it.
            budget = picture_budget(self.precision.device)
            fits = budget is not None and rows.nbytes <= budget
            self._current = place, rows.to(self.precision.device) if fits else rows
        return self._current[1]

    def _take(self, rows: Tensor, positions: Tensor) -> Tensor:
        """Return the activations at `positions` on the device, in the network's layout."""
        taken = rows.index_select(0, positions.to(rows.device)).to(self.precision.device, non_blocking=True)
        return self.border.from_rows(taken)

    def _rows(self, split: Split, view: int | None, stop: Callable[[], bool] = lambda: False) -> Tensor:
        """Return rows as a memory map; compute them if missing."""
        folder = self._place(split, view)
        if folder not in self._opened:
            with locked(folder, stop=stop):
                found = self._open(folder, split, view)
                if found is None:
                    again = "recomputed, since the stored ones did not match: " if folder.exists() else ""
                    begun = time.monotonic()
                    self._fill(folder, split, view, stop)
                    title, seconds = self._title(split, view), time.monotonic() - begun
                    self._said.append(f"activations: {again}{title} in {seconds:.1f} s, stored in {folder}")
                    found = self._open(folder, split, view)
                    if found is None:
                        raise ConfigError(self._fault(split, view), KEEP_ACTIVATIONS)
            self._opened[folder] = found
        return self._opened[folder]

    def _title(self, split: Split, view: int | None) -> str:
        names = {id(self.splits.val): "validation", id(self.splits.test): "test"}
        kind = names.get(id(split), "training")
        views = num_views(self.config) if self.config.data.augment else None
        of = "" if view is None or views is None else f", view {view + 1} of {views}"
        return f"{len(split):,} {kind} pictures{of}"

    def _open(self, folder: Path, split: Split, view: int | None) -> Tensor | None:
        """Return stored rows, or None if incomplete or outdated."""
        found = read_arrays(folder, self._key(split) | {"view": folder.name}, ["rows"])
        if found is None:
            return None
        rows = torch.from_numpy(found[0]["rows"])
        if len(rows) != len(split):
            return None
        # Code of timm or of an augmentation may have changed without a change of names and options.
        first = next(self._chunks(split))
        now, then = self._compute(split, first, view), self._take(rows, first)
        gap = (now.float() - then.float()).abs()
        allowed = ACTIVATION_TOLERANCE[self.border.dtype] * now.float().abs().max()
        strays = (gap > allowed).float().mean().item()
        return rows if now.isfinite().all() and strays * 1000 <= STRAYS else None

    def _fill(self, folder: Path, split: Split, view: int | None, stop: Callable[[], bool]) -> None:
        total = len(split)
        title = f"computing the frozen part for {self._title(split, view)}"
        with (
            explain_refusal("activations", folder, KEEP_ACTIVATIONS),
            building(folder) as fresh,
            progress(title) as report,
        ):
            with Rows(fresh / "rows.npy", total) as file:
                for positions in self._chunks(split):
                    if stop():
                        raise Stopped
                    file.write(self.border.to_rows(self._compute(split, positions, view)).numpy())
                    report(int(positions[-1]) + 1, total)
                checksums = {"rows": file.finish()}
            key = self._key(split) | {"view": folder.name}
            write_record(fresh, {"key": key, "checksums": checksums})

    def _chunks(self, split: Split) -> Iterator[Tensor]:
        count = pictures_per_batch(self.precision.device.type, self.config.data.image_size)
        yield from torch.arange(len(split), device=split.rows.device).split(count)

    def _compute(self, split: Split, positions: Tensor, view: int | None) -> Tensor:
        images, size = self._images(split, positions, view), self.config.data.image_size
        return activations_at(self.model, self.border, images, self.precision, size)

    def _images(self, split: Split, positions: Tensor, view: int | None) -> Tensor:
        config = self.config
        if view is None or not config.data.augment:
            return split.gather(positions)[0]
        num_classes = self.model.num_classes
        return make_batch(split, positions, config.data, config.train.seed, view, num_classes).images

    def _fault(self, split: Split, view: int | None) -> str:
        """Explain why activations just stored differ from those computed again."""
        first, fix = next(self._chunks(split)), "train.keep_activations=false"
        if not self._compute(split, first, view).isfinite().all():
            lower = "" if self.precision.dtype == torch.float32 else "train.precision=float32, or "
            return f"the frozen part gives values that are not finite; set {lower}{fix}"
        if torch.equal(*(self._images(split, first, view) for _ in range(2))):
            return f"the frozen part gives different activations each time it is run; set {fix}"
        return (
            "the same view was computed twice and differs: an augmentation does not take its random numbers "
            f"from `draws`; fix it, or set {fix}"
        )


def _shown(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
