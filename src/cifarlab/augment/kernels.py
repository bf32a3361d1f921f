"""`Lowered`: an augmentation as a kernel and per-sample parameters, so that policies can share kernels."""

from __future__ import annotations

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
    """An image operation with per-sample parameters; two that compare equal are the same operation."""

    def __call__(self, images: Tensor, *parameters: Tensor) -> Tensor: ...

    def __hash__(self) -> int: ...


@dataclass(frozen=True, eq=False)
class Lowered:
    """What an augmentation does to one batch: `kernel(images, *parameters)`, each parameter (B, ...)."""

    kernel: Kernel
    parameters: tuple[Tensor, ...]

    def __call__(self, images: Tensor) -> Tensor:
        return self.kernel(images, *self.parameters)


def lowers(plan: Callable[..., Lowered]) -> Callable[..., Tensor]:
    """Register an augmentation written as `plan(images, draws, *, ...) -> Lowered`.

    Called by name it runs the step; policies find the plan as the trait `lower`, and merge steps with equal
    kernels.
    """

    @wraps(plan)
    def augment(images: Tensor, draws: Draws, **options: Any) -> Tensor:
        return plan(images, draws, **options)(images)

    return AUGMENTS.register(augment, lower=plan)


def held_constant(table: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Let a compiled step hold what `table` gives: Dynamo looks through `lru_cache`, and would trace numpy.

    As `torch.compiler.assume_constant_result`, which imports the compiler: seconds of every command.
    """
    table._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]
    return table


def column(values: Tensor) -> Tensor:
    """(B,) to (B, 1, 1, 1), to broadcast over pictures."""
    return values.view(-1, 1, 1, 1)


def select(use: Tensor, changed: Tensor, images: Tensor) -> Tensor:
    """The rows of `changed` where `use` (B,) is true, else those of `images`: any shapes with B first."""
    return torch.where(use.view(-1, *[1] * (images.dim() - 1)), changed, images)


@dataclass(frozen=True, eq=False)
class _Whole:
    """A part that is no plan, as a kernel that nothing shares; its parameter is the numbers of the rows."""

    spec: Spec
    draws: Draws

    def __call__(self, images: Tensor, *parameters: Tensor) -> Tensor:
        return self.spec.build(images, self.draws.take(*parameters))


def plan(spec: Spec, images: Tensor, draws: Draws) -> Lowered:
    """The step of any augmentation for `images` (B, 3, H, W), with `draws` of its own stream."""
    if (lower := spec.part.traits.lower) is not None:
        return lower(images, draws, **spec.kwargs())
    return Lowered(_Whole(spec, draws), (torch.arange(len(images), device=images.device),))


def merge_lowered(members: Sequence[tuple[Tensor, Lowered]]) -> tuple[Tensor, Lowered]:
    """(The rows that use any of the steps (B,), one step for them all): of equal kernels and disjoint rows.

    The step's parameters mean nothing in the other rows.
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
    """Run a step in place, on the rows where `use` (B,) is true.

    On the CPU only these rows are computed. Elsewhere all are: to count them would stall the device, and a
    captured graph needs shapes that do not depend on draws. The bits are the same.
    """
    if _computes_rows_alone(images):
        rows = use.nonzero()[:, 0]
        images[rows] = step.kernel(images[rows], *(parameter[rows] for parameter in step.parameters))
    else:
        images.copy_(select(use, step(images), images))


def _computes_rows_alone(images: Tensor) -> bool:
    return images.device.type == "cpu" and not torch.compiler.is_compiling()
