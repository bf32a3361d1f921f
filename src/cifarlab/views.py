"""Views: what an epoch shows of a sample; the same for a student and its teacher."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from cifarlab.augment.mixers import mix, pair_draws, partners
from cifarlab.augment.policies import apply
from cifarlab.config import Config, DataConfig
from cifarlab.data.splits import Split
from cifarlab.draws import Draws
from cifarlab.records import Batch


def num_views(config: Config) -> int | None:
    """How many different views a run shows of a picture; None where each epoch shows another."""
    data = config.data
    if data.freeze_views or not (data.augment or data.mix):
        return 1
    return config.teacher.views if config.teacher else None


def view_epoch(config: Config, epoch: int) -> int:
    """The epoch whose views `epoch` shows."""
    views = num_views(config)
    return epoch if views is None else epoch % views


def dress(
    split: Split, positions: Tensor, data: DataConfig, seed: int, epoch: int, num_classes: int
) -> Batch:
    """The batch at `positions` (B,) in the views of `epoch`: gathered, scaled to [0, 1], augmented, mixed."""
    pictures, labels, ids = split.gather(positions)
    images = pictures.float() / 255
    targets = F.one_hot(labels, num_classes).float()
    if data.augment:
        images = apply(images, Draws(seed, epoch, ids).at("augment"), data.augment)
    if data.mix:
        partner = partners(len(labels), labels.device)
        draws = pair_draws(seed, epoch, ids, partner)
        images, targets = mix(images, targets, partner, draws, data.mix)
    return Batch(images, labels, targets, ids)
