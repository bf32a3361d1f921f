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


def view_epoch(config: Config, epoch: int) -> int:
    """The epoch whose views `epoch` shows."""
    return 0 if config.data.freeze_views else epoch


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
