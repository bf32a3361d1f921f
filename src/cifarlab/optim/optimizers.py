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


def parameter_groups(
    module: nn.Module, weight_decay: float, decay_norms: bool, layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """The trainable parameters of a module in at most two groups a layer: with weight decay, and without.

    Without, unless decay_norms: norms and biases (at most one axis), and what a module lists in
    `no_weight_decay()` (timm's way to name class tokens and position embeddings). With a layer_decay below 1
    a group has an `lr_scale`, layer_decay ** depth, from a module's `layer_depths()`; what no module lists
    there has depth 0 (Howard and Ruder 2018; Bao et al. 2022). The order is that of depth, then of
    `named_parameters`.
    """
    exempt = {
        _join(prefix, name)
        for prefix, part in module.named_modules()
        if hasattr(part, "no_weight_decay")
        for name in _names(part)
    }
    depths = _depths(module) if layer_decay < 1 else {}
    found: dict[tuple[int, bool], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            is_exempt = not decay_norms and (parameter.ndim <= 1 or name in exempt)
            found.setdefault((depths.get(name, 0), is_exempt), []).append(parameter)
    groups = []
    for depth, is_exempt in sorted(found):
        group = {"params": found[depth, is_exempt], "weight_decay": 0.0 if is_exempt else weight_decay}
        groups.append(group | ({"lr_scale": layer_decay**depth} if layer_decay < 1 else {}))
    return groups


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def _depths(module: nn.Module) -> dict[str, int]:
    return {
        _join(prefix, name): depth
        for prefix, part in module.named_modules()
        if hasattr(part, "layer_depths")
        for name, depth in part.layer_depths().items()  # pyright: ignore[reportCallIssue]
    }


def build_optimizer(optim: OptimConfig, modules: nn.Module | Iterable[nn.Module]) -> Optimizer:
    """The optimizer of a recipe over all trainable parameters, at the schedule's peak learning rate.

    Build it once the modules are on their device: fused kernels are chosen by where the parameters lie.
    """
    parts = nn.ModuleList([modules] if isinstance(modules, nn.Module) else modules)
    groups = parameter_groups(parts, optim.weight_decay, optim.decay_norms, optim.layer_decay)
    if not groups:
        raise ConfigError("nothing to train: every parameter is frozen", ("model",))
    return optim.optimizer.build(groups, optim.lr)
