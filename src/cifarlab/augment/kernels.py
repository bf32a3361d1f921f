"""Augmentations as a kernel with per-sample parameters (`Lowered`), so that policies can share kernels."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, Protocol

import torch
from torch import Tensor

from cifarlab.core.random import Draws
from cifarlab.core.registries import AUGMENTS
from cifarlab.core.registry import Spec


class Kernel(Protocol):
    """An image operation with per-sample parameters.

    Kernels that compare equal are the same operation.
    """

    def __call__(self, images: Tensor, *parameters: Tensor) -> Tensor: ...

    def __hash__(self) -> int: ...


@dataclass(frozen=True, eq=False)
class Lowered:
    """An augmentation of one batch, as `kernel(images, *parameters)`.

    Attributes:
        kernel: The image operation.
        parameters: Its parameters, each (B, ...).
    """

    kernel: Kernel
    parameters: tuple[Tensor, ...]

    def __call__(self, images: Tensor) -> Tensor:
        return self.kernel(images, *self.parameters)


def lowers(lower: Callable[..., Lowered]) -> Callable[..., Tensor]:
    """Register an augmentation written as `lower(images, draws, *, ...) -> Lowered`.

    The registered function runs the kernel of the result. Policies find `lower` in the trait of that name and
    merge steps with equal kernels.
    """

    @wraps(lower)
    def augment(images: Tensor, draws: Draws, **options: Any) -> Tensor:
        return lower(images, draws, **options)(images)

    module = sys._getframe(1).f_globals["__name__"]  # The module that registers the part, not this one.
    return AUGMENTS.register(augment, lower=lower, module=module)


def held_constant(table: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Let a compiled step treat the result of `table` as a constant.

    Dynamo looks through `lru_cache` and would trace the numpy code. This does what
    `torch.compiler.assume_constant_result` does. That function imports the compiler, which would slow down
    every command by seconds.
    """
    table._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]
    return table


def column(values: Tensor) -> Tensor:
    """Reshape (B,) to (B, 1, 1, 1), to broadcast over pictures."""
    return values.view(-1, 1, 1, 1)


def select(use: Tensor, changed: Tensor, images: Tensor) -> Tensor:
    """Take rows from `changed` where `use` is true, else from `images`.

    use: (B,) bool. changed, images: (B, ...) of any equal shape.
    """
    return torch.where(use.view(-1, *[1] * (images.dim() - 1)), changed, images)


@dataclass(frozen=True, eq=False)
class _Whole:
    """An augmentation that is not lowered, as a kernel that is never shared.

    Its only parameter holds the row numbers, (B,).
    """

    spec: Spec
    draws: Draws

    def __call__(self, images: Tensor, *parameters: Tensor) -> Tensor:
        return self.spec.build(images, self.draws.take(*parameters))


def lower_spec(spec: Spec, images: Tensor, draws: Draws) -> Lowered:
    """Return any augmentation as a `Lowered` step.

    Args:
        spec: The augmentation.
        images: (B, 3, H, W).
        draws: The augmentation's own stream.
    """
    if (lower := spec.part.traits.lower) is not None:
        return lower(images, draws, **spec.kwargs())
    return Lowered(_Whole(spec, draws), (torch.arange(len(images), device=images.device),))


def merge_lowered(members: Sequence[tuple[Tensor, Lowered]]) -> tuple[Tensor, Lowered]:
    """Merge steps with equal kernels and disjoint rows to one step.

    Args:
        members: Steps, each with the rows that use it, (B,) bool.

    Returns:
        The rows that use any of the steps, (B,) bool, and the merged step. Its parameters are meaningless in
        other rows.
    """
    used, first = members[0]
    parameters = first.parameters
    for use, step in members[1:]:
        assert step.kernel == first.kernel
        parameters = tuple(
            select(use, new, old) for new, old in zip(step.parameters, parameters, strict=True)
        )
        used = used | use
    return used, Lowered(first.kernel, parameters)


def change_(images: Tensor, use: Tensor, step: Lowered) -> None:
    """Run a step in place on the rows that use it.

    On the CPU only these rows are computed. On other devices all rows are computed: counting them would stall
    the device, and a captured graph needs shapes that do not depend on draws. The bits are the same.

    Args:
        images: (B, ...), changed in place.
        use: (B,) bool.
        step: The step.
    """
    if _computes_rows_alone(images):
        rows = use.nonzero()[:, 0]
        images[rows] = step.kernel(images[rows], *(parameter[rows] for parameter in step.parameters))
    else:
        images.copy_(select(use, step(images), images))


def _computes_rows_alone(images: Tensor) -> bool:
    return images.device.type == "cpu" and not torch.compiler.is_compiling()
