"""Training batches: pictures of the training split, augmented and mixed.

A view is one augmented version of every training picture. A student and its teacher see the same views.
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor

from cifarlab.augment.mixers import mix_batch, pair_draws, partners
from cifarlab.augment.policies import apply
from cifarlab.config import Config, DataConfig
from cifarlab.core.batch import Batch
from cifarlab.core.random import Draws
from cifarlab.data.splits import Split


def num_views(config: Config) -> int | None:
    """Return the number of different views of each picture in a run.

    None means that each epoch has a new view. Otherwise epoch e uses view e mod n, where n is the result.
    """
    data = config.data
    if data.freeze_views or not (data.augment or data.mix):
        return 1
    return data.views


def view_epoch(config: Config, epoch: int) -> int:
    """Return the first epoch that has the same view as `epoch`.

    The random numbers of a view are derived from this epoch. It is `epoch` itself if views do not repeat.
    """
    views = num_views(config)
    return epoch if views is None else epoch % views


def make_batch(
    split: Split, positions: Tensor, data: DataConfig, seed: int, epoch: int, num_classes: int
) -> Batch:
    """Make a batch of the samples at `positions` (B,) of a split.

    Pictures are gathered, scaled to [0, 1], augmented and mixed. Augmentation and mixing draw random numbers
    that depend on `seed` and `epoch`. Pass the result of `view_epoch` as `epoch`.
    """
    pictures, labels, ids = split.gather(positions)
    images = pictures.float() / 255
    targets = F.one_hot(labels, num_classes).float()
    if data.augment:
        images = apply(images, Draws(seed, epoch, ids).at("augment"), data.augment)
    if data.mix:
        partner = partners(len(labels), device=labels.device)
        draws = pair_draws(seed, epoch, ids, partner)
        images, targets = mix_batch(images, targets, partner, draws, data.mix)
    return Batch(images, labels, targets, ids)


# The modules and packages that determine views and models.
_SOURCES = (
    "cifarlab.core.random",
    "cifarlab.engine.batches",
    "cifarlab.augment",
    "cifarlab.models",
    "cifarlab.engine.frozen",
)


def code_digest(*imports: Sequence[str]) -> str:
    """Return a digest of the source code of augmentation and models.

    It has 32 hex digits. Stored outputs of models are computed again if it changes. Each of `imports` is a
    list of user modules, as names or as paths of .py files. Their code is included.
    """
    files: list[Path] = []
    for name in _SOURCES:
        spec = importlib.util.find_spec(name)
        assert spec is not None, name
        assert spec.origin is not None, name
        origin = Path(spec.origin)
        files += sorted(origin.parent.rglob("*.py")) if origin.name == "__init__.py" else [origin]
    for entry in dict.fromkeys(entry for entries in imports for entry in entries):
        module = sys.modules.get(entry)
        files.append(Path(entry if entry.endswith(".py") else getattr(module, "__file__", None) or entry))
    state = hashlib.blake2b(digest_size=16)
    for file in files:
        state.update(file.read_bytes() if file.is_file() else str(file).encode())
    return state.hexdigest()


class BatchLoader:
    """Makes the training batches of an epoch, in a given order.

    Several batches are augmented at once and then divided, because a GPU launches as many kernels for a
    thousand pictures as for a hundred. The result is the same as for batches augmented one by one: the
    augmented form of a sample depends on no other sample than its partner in mixing, and partners are always
    in the same batch. If an option of `data.mix` draws its random numbers once per batch, batches are
    augmented one by one.

    Args:
        split: The training split.
        config: The run's configuration.
        num_classes: Number of classes.
        pixels: Largest number of pixels to augment at once. A batch with more pixels is augmented alone.
    """

    def __init__(self, split: Split, config: Config, num_classes: int, pixels: int):
        self._split, self._config, self._num_classes = split, config, num_classes
        size, area = config.data.batch_size, split.images[0, 0].numel()
        self.size = size if config.mixes_per_batch else max(1, pixels // (size * area)) * size
        self._chunk: tuple[Tensor, int, int, Batch] | None = None

    def batch(self, order: Tensor, epoch: int, first: int, last: int) -> Batch:
        """Return the batch of the samples `order[first:last]`, augmented as in `epoch`.

        `order` (N,) holds positions in the split.
        """
        begin = first - first % self.size
        chunk = self._chunk
        if chunk is None or chunk[0] is not order or chunk[1:3] != (epoch, begin):
            self._chunk = None  # Free the memory before it is needed for the next views.
            config = self._config
            samples, view = order[begin : begin + self.size], view_epoch(config, epoch)
            views = make_batch(self._split, samples, config.data, config.train.seed, view, self._num_classes)
            self._chunk = chunk = order, epoch, begin, views
        views, rows = chunk[3], slice(first - begin, last - begin)
        return Batch(views.images[rows], views.labels[rows], views.targets[rows], views.ids[rows])
