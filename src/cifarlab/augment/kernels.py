"""Augmentations split into an operation and its parameters for each sample (`Kernel`, `Lowered`).

A policy can then run augmentations that share an operation, such as rotation and shear, in one pass.
"""

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
    """An operation on pictures (B, 3, H, W), with parameters (B, ...) that hold values for each picture.

    Kernels that compare equal are the same operation.
    """

    def __call__(self, images: Tensor, *parameters: Tensor) -> Tensor:
        """Return the changed pictures, in the shape of `images`.

        `images` is (B, 3, H, W). Each of `parameters` is (B, ...). Its row i belongs to picture i.
        """
        ...

    def __hash__(self) -> int: ...


@dataclass(frozen=True, eq=False)
class Lowered:
    """An augmentation of one batch: `kernel(images, *parameters)` returns the augmented pictures.

    Attributes:
        kernel: The operation.
        parameters: The parameters of the operation, each (B, ...).
    """

    kernel: Kernel
    parameters: tuple[Tensor, ...]

    def __call__(self, images: Tensor) -> Tensor:
        """Return the augmented pictures, (B, 3, H, W)."""
        return self.kernel(images, *self.parameters)


def lowers(lower: Callable[..., Lowered]) -> Callable[..., Tensor]:
    """Register an augmentation written as `lower(images, draws, *, ...) -> Lowered`.

    The registered function calls `lower` and applies the result to the pictures. The registry also keeps
    `lower` itself. Policies call it directly, so that they can merge results with equal kernels.
    """

    @wraps(lower)
    def augment(images: Tensor, draws: Draws, **options: Any) -> Tensor:
        return lower(images, draws, **options)(images)

    module = sys._getframe(1).f_globals["__name__"]  # The module that registers the part, not this one.
    return AUGMENTS.register(augment, lower=lower, module=module)


def held_constant(table: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Make `torch.compile` treat the result of a function as a constant.

    Otherwise Dynamo would trace the code of `table`, even behind `lru_cache`. The effect is that of
    `torch.compiler.assume_constant_result`. That function is not used because it imports the compiler, which
    would slow down every command by seconds.
    """
    table._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]
    return table


def column(values: Tensor) -> Tensor:
    """Reshape (B,) to (B, 1, 1, 1), to broadcast over pictures."""
    return values.view(-1, 1, 1, 1)


def select(use: Tensor, changed: Tensor, images: Tensor) -> Tensor:
    """Take rows from `changed` where `use` is true, else from `images`.

    `use` is (B,) bool; `changed` and `images` are (B, ...) and have the same shape.
    """
    return torch.where(use.view(-1, *[1] * (images.dim() - 1)), changed, images)


@dataclass(frozen=True, eq=False)
class _Whole:
    """A kernel for an augmentation that was registered without `lowers`. It equals no other kernel.

    The only parameter, (B,) int64, holds each sample's row in the batch.
    """

    spec: Spec
    draws: Draws

    def __call__(self, images: Tensor, *parameters: Tensor) -> Tensor:
        return self.spec.build(images, self.draws.take(*parameters))


def lower_spec(spec: Spec, images: Tensor, draws: Draws) -> Lowered:
    """Return any augmentation as `Lowered`.

    Args:
        spec: The augmentation.
        images: The pictures to augment, (B, 3, H, W).
        draws: The augmentation's stream of random numbers.
    """
    if (lower := spec.part.traits.lower) is not None:
        return lower(images, draws, **spec.kwargs())
    return Lowered(_Whole(spec, draws), (torch.arange(len(images), device=images.device),))


def merge_lowered(members: Sequence[tuple[Tensor, Lowered]]) -> tuple[Tensor, Lowered]:
    """Merge augmentations with equal kernels and disjoint rows.

    Args:
        members: The augmentations, each with the rows of the batch that use it, (B,) bool.

    Returns:
        The rows that use any of the augmentations, (B,) bool, and the merged augmentation. The parameters of
        the merged augmentation are meaningless in all other rows.
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
    """Augment some rows of a batch in place.

    On the CPU only these rows are computed. On other devices, and in compiled code, all rows are computed and
    those in `use` are kept: counting rows would make the host wait for the device, and compiled code needs
    fixed shapes. Both ways give the same bits.

    Args:
        images: The pictures (B, ...), changed in place.
        use: The rows to augment, (B,) bool.
        step: The augmentation.
    """
    if _computes_rows_alone(images):
        rows = use.nonzero()[:, 0]
        images[rows] = step.kernel(images[rows], *(parameter[rows] for parameter in step.parameters))
    else:
        images.copy_(select(use, step(images), images))


def _computes_rows_alone(images: Tensor) -> bool:
    return images.device.type == "cpu" and not torch.compiler.is_compiling()
