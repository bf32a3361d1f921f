"""Advice for runs that ran out of memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import reduce

import torch

from cifarlab.config import Config, build_config
from cifarlab.config.merge import merge_sections, parse_override
from cifarlab.core.errors import ConfigError, Failure


@contextlib.contextmanager
def out_of_memory_explained(config: Config) -> Iterator[None]:
    """Convert an out-of-memory error in the `with` body to a Failure.

    The message suggests a change of `config` that needs less memory.
    """
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        # torch's allocator for the CPU raises a plain RuntimeError.
        is_memory = not isinstance(error, RuntimeError) or isinstance(error, torch.OutOfMemoryError)
        if not is_memory and "can't allocate memory" not in str(error):
            raise
        data = config.data
        sizes = f", data.multi_scale.sizes={[*data.train_sizes]}" if data.multi_scale is not None else ""
        raise Failure(
            f"out of memory at data.batch_size={data.batch_size}, data.image_size={data.image_size}{sizes}; "
            f"try {smaller(config)} (with another --name, or --fresh)"
        ) from error


def smaller(config: Config) -> str:
    """Suggest a change with which a configuration needs less memory.

    Returns:
        Overrides that halve the batch size and double `train.accumulate`, or if that is invalid, halve the
        batch size only. If the batch cannot be smaller: an override that halves the image size, or else the
        words `a smaller model.backbone`.
    """
    data, accumulate = config.data, config.train.accumulate
    size = max(2, data.batch_size // 4 * 2)  # Even, for mixing.
    if size == data.batch_size:
        side = max(8, data.image_size // 2)
        found = [f"data.image_size={side}"] if data.multi_scale is None and side < data.image_size else []
    else:
        found = [f"data.batch_size={size} train.accumulate={2 * accumulate}", f"data.batch_size={size}"]
    for words in found:
        with contextlib.suppress(ConfigError):
            build_config(reduce(merge_sections, map(parse_override, words.split()), config.dump()))
            return words
    return "a smaller model.backbone"
