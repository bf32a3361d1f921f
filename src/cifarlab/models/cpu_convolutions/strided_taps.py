"""Strided 1x1 convolutions with few channels, computed without oneDNN's faulty strided convolution."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

# Channels in a block of oneDNN: 8 with AVX2, where the fault was seen, and 16 with AVX-512, where it was not
# tested.
BLOCK = 16


class StridedTapConv2d(nn.Conv2d):
    """A strided 1x1 convolution that avoids oneDNN's strided convolution.

    It selects every stride-th pixel and convolves the selected pixels with stride 1. The outputs are the
    same.

    oneDNN's strided convolution (3.13 and earlier) has a fault. If a channels_last input has fewer channels
    than oneDNN's block (8 or 16), the weight gradient is written beyond the end of its buffer. Gradients are
    then wrong, or the process crashes (https://github.com/uxlfoundation/oneDNN/issues/6035).
    """

    def forward(self, input: Tensor) -> Tensor:
        """Convolve like nn.Conv2d, (B, I, H, W) to (B, O, H', W')."""
        down, right = self.stride
        return F.conv2d(input[:, :, :: int(down), :: int(right)], self.weight, self.bias)


def use_strided_taps(module: nn.Module) -> int:
    """Replace convolutions that oneDNN computes wrongly, in place; return their number.

    They become `StridedTapConv2d`.
    """
    found = [part for part in module.modules() if type(part) is nn.Conv2d and _errs(part)]
    for part in found:
        part.__class__ = StridedTapConv2d
    return len(found)


def _errs(conv: nn.Conv2d) -> bool:
    is_tap = conv.kernel_size == (1, 1) and conv.padding in ((0, 0), "valid") and conv.groups == 1
    return is_tap and conv.stride != (1, 1) and conv.in_channels < BLOCK
