"""Whether a configuration has a use for kept activations."""

from __future__ import annotations

from cifarlab.config import Config
from cifarlab.engine.batches import num_views

KEEP_ACTIVATIONS = ("train", "keep_activations")


def reason_against(config: Config, teacher_is_kept: bool) -> str | None:
    """Why a configuration has no use for kept activations; None where it has.

    teacher_is_kept: whether the teacher, if any, answers from its cache.
    """
    data, views, epochs = config.data, num_views(config), config.train.last_epoch
    if data.mix:
        return "data.mix mixes pictures, and a kept activation is that of one"
    if views is None:
        return "each epoch shows other views; say data.views=10, or remove data.augment"
    if data.multi_scale is not None:
        return "data.multi_scale shows pictures at several sizes; say data.multi_scale=null"
    if config.lessons and not teacher_is_kept:
        return "the teacher is asked about the pictures of each step"
    if epochs <= views:
        return f"{epochs} epochs show each of {views} views once"
    return None
