"""Placement of pictures on a device, within its memory budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from cifarlab.core.device import picture_budget
from cifarlab.data.splits import Split, Splits


def place_split(split: Split, device: torch.device) -> Split:
    """Move one split to `device`, within the memory budget of `place_all`."""
    return _mover(device)(split)


def place_all(splits: Splits, device: torch.device) -> Splits:
    """Move all splits to `device`; images that splits share move once.

    Images that exceed the device's `picture_budget` stay on the host. Their batches are gathered on the host
    and then copied to the device, where the labels are.
    """
    move = _mover(device)
    train = move(splits.train)  # First, because no other split is read as often.
    val, test = (split if split is None else move(split) for split in (splits.val, splits.test))
    return replace(splits, train=train, val=val, test=test)


def _mover(device: torch.device) -> Callable[[Split], Split]:
    moved: dict[int, Tensor] = {}
    left = picture_budget(device)

    def move(split: Split) -> Split:
        nonlocal left
        images = split.images
        if images.data_ptr() not in moved:
            fits = left is None or images.nbytes <= left
            moved[images.data_ptr()] = images.to(device) if fits else images
            left = left - images.nbytes if left is not None and fits else left
        images = moved[images.data_ptr()]
        return Split(images, split.rows.to(images.device), split.labels.to(device), split.ids.to(device))

    return move


def left_on_host(*splits: Split | None) -> list[str]:
    """Return a list with a message if pictures stayed on the host.

    The list is empty if all pictures are on the device.
    """
    away = [split for split in splits if split is not None and split.rows.device != split.labels.device]
    if not away:
        return []
    size = sum({split.images.data_ptr(): split.images.nbytes for split in away}.values()) / 2**30
    return [f"{size:.1f} GiB of pictures do not fit on {away[0].labels.device}: they stay on the host"]
