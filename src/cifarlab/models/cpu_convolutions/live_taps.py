"""3x3 convolutions on tiny maps, as matrix products that leave out the zeros of the padding."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LiveConv2d(nn.Conv2d):
    """A 3x3 convolution with padding 1 that is faster on maps of one or two pixels a side.

    A tap is one of the 9 positions of the kernel. On a map of one pixel, 8 of the 9 taps see only padding. On
    such maps and on maps of 2x2 pixels the convolution is computed as one matrix product, with only those
    taps that see the map. Larger maps are convolved as usual. Outputs and gradients equal those of nn.Conv2d
    up to rounding. The state dict is the same.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Convolve like nn.Conv2d, (B, I, H, W) to (B, O, H', W')."""
        height, width = input.shape[-2:]
        if height > 2 or width > 2:
            return super().forward(input)
        taps = self.weight.permute(0, 2, 3, 1)
        device = input.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else taps.dtype
        rows, columns = range(0, height, int(self.stride[0])), range(0, width, int(self.stride[1]))
        # Output (y, x) sees input (a, b) through tap (a - y + 1, b - x + 1). Cast after slicing, because most
        # of the weight is not needed.
        live = [
            taps[:, 1 - y : 1 - y + height, 1 - x : 1 - x + width].to(dtype) for y in rows for x in columns
        ]
        matrix = torch.cat([block.flatten(1) for block in live])
        bias = self.bias.repeat(len(live)) if self.bias is not None else None
        output = F.linear(input.permute(0, 2, 3, 1).flatten(1), matrix, bias)
        return output.view(len(input), len(rows), len(columns), -1).permute(0, 3, 1, 2)


def use_live_taps(module: nn.Module) -> int:
    """Turn suitable 3x3 convolutions into `LiveConv2d` in place; return their number.

    Suitable are those with padding 1, stride 1 or 2, no dilation and no groups.
    """
    found = [part for part in module.modules() if type(part) is nn.Conv2d and _can_be_live(part)]
    for part in found:
        part.__class__ = LiveConv2d
    return len(found)


def _can_be_live(conv: nn.Conv2d) -> bool:
    geometry = (conv.kernel_size, conv.padding, conv.dilation, conv.groups, conv.padding_mode)
    return geometry == ((3, 3), (1, 1), (1, 1), 1, "zeros") and conv.stride in ((1, 1), (2, 2))
