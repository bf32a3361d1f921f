"""Sharpness-aware steps, whose gradient is taken at a point of higher loss near the weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from cifarlab.core.registries import SHARPNESS

Radius = Annotated[float, Field(gt=0)]
# Avoids a division by 0: if the gradient vanishes, the weights do not move.
TINY = 1e-12


@SHARPNESS.register
def sam(
    weights: list[Tensor],  # noqa: ARG001  every rule is given them
    gradients: list[Tensor],
    *,
    rho: Radius = 0.05,
) -> list[Tensor]:
    """Take the gradient uphill at distance rho (SAM, Foret et al. 2021).

    The weights are first moved along their gradient, by the distance rho. A second gradient is computed
    there. The optimizer uses it for a step from the original weights.

    Args:
        rho: Distance from the weights at which the gradient is taken. 0.05 suits CIFAR-10; on CIFAR-100 the
            code of ASAM's authors takes 0.1 for SAM.

    Returns:
        The move of each weight, to be added to it. `uphill` adds it, and undoes it after the second gradient.
    """
    return _scale(gradients, rho / (_norm(gradients) + TINY))


@SHARPNESS.register
def asam(
    weights: list[Tensor],
    gradients: list[Tensor],
    *,
    rho: Radius = 0.5,
    eta: Annotated[float, Field(ge=0)] = 0.01,
) -> list[Tensor]:
    """SAM with distances relative to weights (ASAM, Kwon et al. 2021).

    The distance of a weight w is measured in units of |w| + eta. This holds for biases, too, as in the
    paper's algorithm 1. The authors' code uses the unit 1 for biases instead, so that biases move farther
    uphill.

    Args:
        rho: Distance from the weights, in these units, at which the gradient is taken. The authors' code
            takes 0.5 on CIFAR-10 and 1 on CIFAR-100.
        eta: Number that is added to each weight's size, so that weights near 0 move, too.

    Returns:
        The move of each weight, to be added to it. `uphill` adds it, and undoes it after the second gradient.
    """
    units = [weight.abs() + eta for weight in weights]
    relative = [gradient * unit for gradient, unit in zip(gradients, units, strict=True)]
    moves = _scale(relative, rho / (_norm(relative) + TINY))
    return [move * unit for move, unit in zip(moves, units, strict=True)]


@contextmanager
def uphill(
    ascent: Callable[[list[Tensor], list[Tensor]], list[Tensor]], parameters: Sequence[nn.Parameter]
) -> Iterator[None]:
    """Move parameters by `ascent(weights, gradients)` within the context.

    Only parameters with a gradient move. The gradients' common scale does not matter: neither removing a loss
    scale nor clipping would change the move. Afterwards the weights are restored bit for bit, even if a
    gradient was not finite.
    """
    moved = [parameter for parameter in parameters if parameter.grad is not None]
    weights = [parameter.detach() for parameter in moved]
    kept = [weight.clone() for weight in weights]
    with torch.no_grad():
        moves = ascent(weights, [parameter.grad for parameter in moved if parameter.grad is not None])
        torch._foreach_add_(weights, moves)  # pyright: ignore[reportPrivateImportUsage]
        del moves
    try:
        yield
    finally:
        with torch.no_grad():
            torch._foreach_copy_(weights, kept)  # pyright: ignore[reportPrivateImportUsage]


def _norm(tensors: list[Tensor]) -> Tensor:
    return torch.nn.utils.get_total_norm(tensors)


def _scale(tensors: list[Tensor], factor: Tensor) -> list[Tensor]:
    return list(torch._foreach_mul(tensors, factor))  # pyright: ignore[reportPrivateImportUsage]
