"""Compilation of a model by torch.compile."""

from __future__ import annotations

import logging
from typing import cast

import torch
from torch import nn

from cifarlab.core.errors import ConfigError

# How many input shapes a run may have: picture sizes times full, last and per-size batches. Beyond its limit
# (by default 8), torch falls back to the uncompiled model without an error.
SHAPES_AT_MOST = 64


def compiled(model: nn.Module) -> nn.Module:
    """Return the model compiled by torch.compile.

    It is compiled again for each new input shape. It shares its parameters and buffers with `model`. Dropout
    and other random layers draw the same numbers as in the uncompiled model.

    Raises:
        ConfigError: The compiler is missing: Triton on a GPU, a C++ compiler on a CPU.
    """
    device = next(model.parameters()).device
    _refuse_without_compiler(device)
    # This logger warns on every machine without a GPU that there is none.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, SHAPES_AT_MOST)
    # Of a module, torch.compile returns a module, whatever its annotation.
    return cast("nn.Module", torch.compile(model, dynamic=False, options={"fallback_random": True}))


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
