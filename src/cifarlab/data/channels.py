"""Mean and standard deviation of the colour channels."""

from __future__ import annotations

import torch

from cifarlab.data.splits import Split

CHANNELS = ("red", "green", "blue")
# One step of 8 bits. Dividing by a smaller deviation would amplify the rounding of a channel above the
# content of the others.
LEVEL = 1 / 255


def channel_statistics(split: Split) -> tuple[tuple[tuple[float, ...], tuple[float, ...]], tuple[str, ...]]:
    """Compute mean and standard deviation of each colour channel.

    Pixel values are in [0, 1]. A channel whose deviation is below 1 / 255 is treated as constant: it gets a
    warning, and the deviation 1, so that normalisation does not scale it.

    Returns:
        ((means, standard deviations), warnings). The first two are in the order red, green, blue.
    """
    total, squares, count = torch.zeros(3, dtype=torch.float64), torch.zeros(3, dtype=torch.float64), 0
    for positions in torch.arange(len(split)).split(1000):
        chunk = split.images[split.rows[positions.to(split.rows.device)]].to("cpu", torch.float64) / 255
        total += chunk.sum((0, 2, 3))
        squares += chunk.square().sum((0, 2, 3))
        count += chunk.numel() // 3
    mean = total / count
    # Rounding may give a constant channel a negative variance, whose square root is NaN.
    deviation = (squares / count - mean.square()).clamp(min=0).sqrt()
    warnings = tuple(
        f"the {name} channel is constant in the training pictures: normalisation subtracts its mean only; "
        "check the pictures"
        for name, value in zip(CHANNELS, deviation, strict=True)
        if value < LEVEL
    )
    deviation[deviation < LEVEL] = 1.0
    return (tuple(mean.tolist()), tuple(deviation.tolist())), warnings
