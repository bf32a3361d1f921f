"""Batch norms' running statistics: left as they are, or estimated anew."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def norms_in_training(*modules: nn.Module) -> list[_BatchNorm]:
    """The batch norms that a forward pass would change, in the modes that they are in."""
    return [
        norm
        for module in modules
        for norm in module.modules()
        if isinstance(norm, _BatchNorm) and norm.training and norm.track_running_stats
    ]


@contextmanager
def statistics_kept(*modules: nn.Module) -> Iterator[None]:
    """While entered, batch norms in training mode use a batch's statistics and do not remember them."""
    norms = norms_in_training(*modules)
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


@contextmanager
def statistics_anew(*modules: nn.Module) -> Iterator[None]:
    """While entered, batch norms in training mode forget what they saw, and average equally what they see."""
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
