"""Mean and deviation of the colour channels."""

from __future__ import annotations

import torch

from cifarlab.data.splits import Split

CHANNELS = ("red", "green", "blue")
# One step of 8 bits. Divided by a lesser deviation, a channel's rounding would outweigh the others' content.
LEVEL = 1 / 255


def channel_statistics(split: Split) -> tuple[tuple[tuple[float, ...], tuple[float, ...]], tuple[str, ...]]:
    """(mean, standard deviation) of each colour channel over the split's pictures, in [0, 1]; warnings.

    A channel whose deviation is below LEVEL is given 1, which leaves it undivided, and a warning.
    """
    total, squares, count = torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64), 0
    for positions in torch.arange(len(split)).split(1000):
        chunk = split.images[split.rows[positions.to(split.rows.device)]].to("cpu", torch.float64) / 255
        total += chunk.sum((0, 2, 3))
        squares += chunk.square().sum((0, 2, 3))
        count += chunk.numel() // 3
    mean = total / count
    # Rounding may leave a constant channel a variance below 0, whose root is no number.
    deviation = (squares / count - mean.square()).clamp(min=0).sqrt()
    warnings = tuple(
        f"the {name} channel is constant in the training pictures: normalisation takes off its mean only; "
        "check the pictures"
        for name, value in zip(CHANNELS, deviation, strict=True)
        if value < LEVEL
    )
    deviation[deviation < LEVEL] = 1.0
    return (tuple(mean.tolist()), tuple(deviation.tolist())), warnings
