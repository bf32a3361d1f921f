"""The test of whether storing activations can save time in a run."""

from __future__ import annotations

from cifarlab.config import Config
from cifarlab.engine.batches import num_views

KEEP_ACTIVATIONS = ("train", "keep_activations")


def reason_against(config: Config, teacher_is_kept: bool) -> str | None:
    """Return why storing activations cannot speed up a run, or None.

    `teacher_is_kept` tells whether the teacher's outputs are stored, so that steps do not run the teacher. It
    is ignored if the run has no teacher.
    """
    data, views, epochs = config.data, num_views(config), config.train.last_epoch
    if data.mix:
        return "data.mix mixes pictures, but a kept activation belongs to one picture"
    if views is None:
        return "each epoch shows new views; set data.views=10, or remove data.augment"
    if data.multi_scale is not None:
        return "data.multi_scale shows pictures at several sizes; set data.multi_scale=null"
    if config.teacher_outputs and not teacher_is_kept:
        return "the teacher is run on the pictures of each step"
    if epochs <= views:
        given = f"train.epochs={epochs}" if config.train.stop is None else f"train.stop={epochs}"
        given += f", data.views={views}" if data.views == views else ""
        return f"no view recurs: {given}"
    return None
