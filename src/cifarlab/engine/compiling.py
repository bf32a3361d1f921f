"""Compiled forwards and backwards of a model, by torch.compile."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import nn

from cifarlab.core.errors import ConfigError

# Shapes that a run may show a model: sizes of pictures times full, last and per-size batches. Beyond torch's
# limit (8) it falls back to the uncompiled model without an error.
SHAPES_AT_MOST = 64


def compiled(model: nn.Module) -> Any:
    """The same model, called through kernels that torch.compile writes for each shape it meets.

    Parameters and buffers are the model's own. Dropout and the like draw what the uncompiled model draws.
    Raises ConfigError where the machine lacks the compiler.
    """
    device = next(model.parameters()).device
    _refuse_without_compiler(device)
    # It says on every CPU that there is no GPU.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, SHAPES_AT_MOST)
    return torch.compile(model, dynamic=False, options={"fallback_random": True})


def _refuse_without_compiler(device: torch.device) -> None:
    path, fix = ("train", "engine"), "or leave train.engine=auto"
    if device.type == "cuda":
        from torch.utils._triton import has_triton

        if not has_triton():
            raise ConfigError(
                f"compiled needs Triton on a GPU, which is not installed; install it, {fix}", path
            )
        return
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        raise ConfigError(f"compiled needs a C++ compiler on a CPU; install g++, {fix}", path) from None
