"""Strided 1x1 convolutions of few channels, on the pixels that they see alone."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

# Channels to a block: 8 of AVX2, where it was seen, and 16 of AVX-512, where it was not looked for.
BLOCK = 16


class StridedTapConv2d(nn.Conv2d):
    """A strided 1x1 convolution, as one without a stride on every stride-th pixel: the same function.

    oneDNN's own, in 3.13 and before, writes past its buffer for the weights' gradient where channels_last
    pictures have fewer channels than a block: gradients are wrong, or the process dies
    (https://github.com/uxlfoundation/oneDNN/issues/6035).
    """

    def forward(self, input: Tensor) -> Tensor:
        """(B, I, H, W) -> (B, O, H', W'), as nn.Conv2d."""
        down, right = self.stride
        return F.conv2d(input[:, :, :: int(down), :: int(right)], self.weight, self.bias)


def use_strided_taps(module: nn.Module) -> int:
    """Make the module's convolutions `StridedTapConv2d` where oneDNN errs, in place; returns how many."""
    found = [part for part in module.modules() if type(part) is nn.Conv2d and _errs(part)]
    for part in found:
        part.__class__ = StridedTapConv2d
    return len(found)


def _errs(conv: nn.Conv2d) -> bool:
    is_tap = conv.kernel_size == (1, 1) and conv.padding in ((0, 0), "valid") and conv.groups == 1
    return is_tap and conv.stride != (1, 1) and conv.in_channels < BLOCK
