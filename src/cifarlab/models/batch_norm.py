"""Contexts that keep batch norms' running statistics unchanged, or compute them anew."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def norms_in_training(*modules: nn.Module) -> list[_BatchNorm]:
    """Return the batch norms whose running statistics a forward pass would update."""
    return [
        norm
        for module in modules
        for norm in module.modules()
        if isinstance(norm, _BatchNorm) and norm.training and norm.track_running_stats
    ]


@contextmanager
def statistics_kept(*modules: nn.Module) -> Iterator[None]:
    """Keep running statistics unchanged while the context is active.

    Batch norms in training mode still normalise by each batch.
    """
    norms = norms_in_training(*modules)
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


@contextmanager
def reestimated_statistics(*modules: nn.Module) -> Iterator[None]:
    """Compute running statistics anew from the forward passes within the context.

    This concerns batch norms in training mode. Their statistics are reset first. Then they are the mean over
    all batches, with equal weight.
    """
    norms = norms_in_training(*modules)
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
