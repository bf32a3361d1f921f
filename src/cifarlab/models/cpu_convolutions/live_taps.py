"""Convolutions on maps of one or two pixels a side, as matrix products without the padding's zeros."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LiveConv2d(nn.Conv2d):
    """A 3x3 convolution with padding 1 that, on a map of at most 2x2, multiplies only what is not padding.

    On one pixel 8 of 9 taps see zeros; on 2x2 the convolution is one matrix of the 4 x 4 taps that see the
    map. The function, its gradients and its state dict are nn.Conv2d's; sums are rounded in another order.
    """

    def forward(self, input: Tensor) -> Tensor:
        """(B, I, H, W) -> (B, O, H', W'), as nn.Conv2d."""
        height, width = input.shape[-2:]
        if height > 2 or width > 2:
            return super().forward(input)
        taps = self.weight.permute(0, 2, 3, 1)
        device = input.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else taps.dtype
        rows, columns = range(0, height, int(self.stride[0])), range(0, width, int(self.stride[1]))
        # Output (y, x) sees input (a, b) through tap (a - y + 1, b - x + 1). Cast after slicing: most is not
        # needed.
        live = [
            taps[:, 1 - y : 1 - y + height, 1 - x : 1 - x + width].to(dtype) for y in rows for x in columns
        ]
        matrix = torch.cat([block.flatten(1) for block in live])
        bias = self.bias.repeat(len(live)) if self.bias is not None else None
        output = F.linear(input.permute(0, 2, 3, 1).flatten(1), matrix, bias)
        return output.view(len(input), len(rows), len(columns), -1).permute(0, 3, 1, 2)


def use_live_taps(module: nn.Module) -> int:
    """Make the module's convolutions `LiveConv2d` where they can be, in place; returns how many."""
    found = [part for part in module.modules() if type(part) is nn.Conv2d and _can_be_live(part)]
    for part in found:
        part.__class__ = LiveConv2d
    return len(found)


def _can_be_live(conv: nn.Conv2d) -> bool:
    geometry = (conv.kernel_size, conv.padding, conv.dilation, conv.groups, conv.padding_mode)
    return geometry == ((3, 3), (1, 1), (1, 1), 1, "zeros") and conv.stride in ((1, 1), (2, 2))
