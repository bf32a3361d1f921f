"""Optimizers, and which parameters they decay."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import nn
from torch.optim import Optimizer

from cifarlab.config import OptimConfig
from cifarlab.registry import OPTIMIZERS, ConfigError

Momentum = Annotated[float, Field(ge=0, lt=1)]


@OPTIMIZERS.register
def sgd(
    groups: list[dict[str, Any]], lr: float, *, momentum: Momentum = 0.9, nesterov: bool = True
) -> Optimizer:
    """Stochastic gradient descent with Nesterov's momentum."""
    # torch refuses nesterov without momentum; there the two are the same.
    return torch.optim.SGD(
        groups, lr=lr, momentum=momentum, nesterov=nesterov and momentum > 0, fused=_fused(groups)
    )


@OPTIMIZERS.register
def adamw(
    groups: list[dict[str, Any]],
    lr: float,
    *,
    betas: tuple[Momentum, Momentum] = (0.9, 0.999),
    eps: Annotated[float, Field(gt=0)] = 1e-8,
) -> Optimizer:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019)."""
    return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps, fused=_fused(groups))


def _fused(groups: list[dict[str, Any]]) -> bool | None:
    """True where torch has the fused kernel, else None: torch chooses, where False would rule out foreach."""
    parameters = [parameter for group in groups for parameter in group["params"]]
    return all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in parameters) or None


def _names(part: Any) -> Iterable[str]:
    return part.no_weight_decay()


def parameter_groups(module: nn.Module, weight_decay: float, decay_norms: bool) -> list[dict[str, Any]]:
    """The trainable parameters of a module in at most two groups: with weight decay, and without.

    Without, unless decay_norms: norms and biases (at most one axis), and what a module lists in
    `no_weight_decay()` (timm's way to name class tokens and position embeddings). The order is that of
    `named_parameters`.
    """
    exempt = {
        f"{prefix}.{name}" if prefix else name
        for prefix, part in module.named_modules()
        if hasattr(part, "no_weight_decay")
        for name in _names(part)
    }
    decayed, others = [], []
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            plain = parameter.ndim <= 1 or name in exempt
            (others if plain and not decay_norms else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def build_optimizer(optim: OptimConfig, modules: nn.Module | Iterable[nn.Module]) -> Optimizer:
    """The optimizer of a recipe over all trainable parameters, at the schedule's peak learning rate.

    Build it once the modules are on their device: fused kernels are chosen by where the parameters lie.
    """
    parts = nn.ModuleList([modules] if isinstance(modules, nn.Module) else modules)
    groups = parameter_groups(parts, optim.weight_decay, optim.decay_norms)
    if not groups:
        raise ConfigError("nothing to train: every parameter is frozen", ("model",))
    return optim.optimizer.build(groups, optim.lr)
