"""Depthwise convolutions for training on CPUs, which are faster than torch's."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Pair = tuple[int, int]
# Compared by name, because importing timm takes seconds and other networks do not need it.
_CONV2D_SAME = "timm.layers.conv2d_same.Conv2dSame"
# The longest side of a kernel for which oneDNN computes the weight gradient quickly.
QUICK = 3


class _Depthwise(torch.autograd.Function):
    """A depthwise convolution with its own, faster backward pass.

    It convolves (B, C, H, W) with weights (C, 1, k, k).
    """

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight: Tensor, stride: Pair, padding: Pair, dilation: Pair
    ) -> Tensor:
        ctx.save_for_backward(input, weight)
        ctx.geometry = stride, padding, dilation
        return F.conv2d(input, weight, None, stride, padding, dilation, len(weight))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        input, weight = ctx.saved_tensors
        stride, padding, dilation = ctx.geometry
        (grad,) = grads
        grad = grad.contiguous(memory_format=torch.channels_last)
        wants_input, wants_weight, *_ = ctx.needs_input_grad
        return (
            _input_gradient(grad, input, weight, stride, padding, dilation) if wants_input else None,
            _weight_gradient(grad, input, weight, stride, padding, dilation) if wants_weight else None,
            None,
            None,
            None,
        )


def _backward(
    grad: Tensor, input: Tensor, weight: Tensor, geometry: tuple[Pair, Pair, Pair], wanted: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    stride, padding, dilation = geometry
    return torch.ops.aten.convolution_backward(
        grad, input, weight, None, stride, padding, dilation, False, [0, 0], len(weight), wanted
    )


def _input_gradient(
    grad: Tensor, input: Tensor, weight: Tensor, stride: Pair, padding: Pair, dilation: Pair
) -> Tensor:
    geometry = stride, padding, dilation
    if stride == (1, 1) or grad.dtype == torch.float32:
        return _backward(grad, input, weight, geometry, [True, False, False])[0]
    # Strided convolutions are 15 to 100 times slower here in bfloat16 than in float32. Only the input's shape
    # is read.
    like = torch.empty_like(input, dtype=torch.float32)
    found = _backward(grad.float(), like, weight.float(), geometry, [True, False, False])[0]
    return found.to(grad.dtype)


def _weight_gradient(
    grad: Tensor, input: Tensor, weight: Tensor, stride: Pair, padding: Pair, dilation: Pair
) -> Tensor:
    height, width = weight.shape[2:]
    tall, wide = _quick_kernel(height, width, grad.dtype)
    if (tall, wide) == (height, width) or dilation != (1, 1):
        return _backward(grad, input, weight, (stride, padding, dilation), [False, True, False])[1]
    down, right = padding
    rows, columns = input.shape[2:]
    rows_read, columns_read = (step * (size - 1) for step, size in zip(stride, grad.shape[2:], strict=True))
    # If a block has the kernel's full height, oneDNN pads the rows itself. It takes 10 times as long if the
    # map is lower than the kernel.
    pads_rows = tall == height and rows >= height
    found = torch.empty_like(weight)
    for top in _tops(height, tall):
        above, below = (0, 0) if pads_rows else (down - top, rows_read + tall + top - down - rows)
        for left in _tops(width, wide):
            part = F.pad(input, (right - left, columns_read + wide + left - right - columns, above, below))
            block = weight[:, :, top : top + tall, left : left + wide]
            found[:, :, top : top + tall, left : left + wide] = _backward(
                grad, part.contiguous(memory_format=torch.channels_last), block,
                (stride, (down if pads_rows else 0, 0), dilation), [False, True, False],
            )[1]  # fmt: skip
    return found


def _quick_kernel(height: int, width: int, dtype: torch.dtype) -> Pair:
    """Return (height, width) of blocks for computing a kernel's weight gradient.

    oneDNN computes the gradient of a block of this size quickly. A kernel of height x width is split into
    such blocks, or stays whole if the result is its own size.
    """
    if dtype == torch.bfloat16:  # 5x5 as four 3x3 blocks on shifted pictures: 3 to 8 times faster
        return min(height, QUICK), min(width, QUICK)
    if torch.backends.cpu.get_cpu_capability() == "AVX2":  # 5x5 as two 5x3 blocks: 1.1 to 10 times faster
        return height, min(width, QUICK)
    return height, width


def _tops(size: int, block: int) -> Iterator[int]:
    """Yield the first index of each block; blocks cover `size` indices.

    Each block covers `block` of them. The last two blocks may overlap.
    """
    for top in range(0, size, block):
        yield min(top, size - block)


class DepthwiseConv2d(nn.Conv2d):
    """A depthwise convolution with fast forward and backward passes on a CPU.

    Outputs and gradients equal those of nn.Conv2d up to rounding. The state dict is the same.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Convolve like nn.Conv2d, (B, C, H, W) to (B, C, H', W')."""
        return _forward(self, input, _pair(self.padding))


def _pair(value: Any) -> Pair:
    return int(value[0]), int(value[1])


def _forward(conv: nn.Conv2d, input: Tensor, padding: Pair) -> Tensor:
    device = input.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else input.dtype
    weight = conv.weight.to(dtype)
    output = _Depthwise.apply(input.to(dtype), weight, _pair(conv.stride), padding, _pair(conv.dilation))
    return output if conv.bias is None else output + conv.bias.to(dtype).view(1, -1, 1, 1)


class DepthwiseConv2dSame(DepthwiseConv2d):
    """A `DepthwiseConv2d` that replaces timm's `Conv2dSame`, whose padding depends on the input's size."""

    def forward(self, input: Tensor) -> Tensor:
        """Convolve with "same" padding.

        (B, C, H, W) becomes (B, C, ceil(H / stride), ceil(W / stride)).
        """
        from timm.layers.padding import pad_same

        padded = pad_same(input, [*self.kernel_size], [*self.stride], [*self.dilation])
        return _forward(self, padded, (0, 0))


def use_depthwise(module: nn.Module) -> int:
    """Turn depthwise convolutions into `DepthwiseConv2d` in place; return their number."""
    found = 0
    for part in module.modules():
        if isinstance(part, nn.Conv2d) and _is_depthwise(part):
            if type(part) is nn.Conv2d and not isinstance(part.padding, str):
                part.__class__ = DepthwiseConv2d
            elif f"{type(part).__module__}.{type(part).__name__}" == _CONV2D_SAME:
                part.__class__ = DepthwiseConv2dSame
            else:
                continue
            found += 1
    return found


def _is_depthwise(conv: nn.Conv2d) -> bool:
    is_alone = conv.groups == conv.in_channels == conv.out_channels and conv.groups > 1
    return is_alone and conv.padding_mode == "zeros"
