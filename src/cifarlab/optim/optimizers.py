"""Optimizers, and the parameter groups that are passed to them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator, Field, PlainSerializer
from torch import nn
from torch.optim import Optimizer

from cifarlab.config import OptimConfig
from cifarlab.core.device import has_bfloat16
from cifarlab.core.errors import ConfigError
from cifarlab.core.registries import OPTIMIZERS
from cifarlab.core.registry import Spec

Momentum = Annotated[float, Field(ge=0, lt=1)]


def _rest(value: Any) -> Spec:
    spec = OPTIMIZERS.spec(value)
    if spec.part.traits.hidden_apart:
        raise ConfigError(f"{spec.name} is for hidden matrices; use sgd, adamw or lion here")
    return spec


Rest = Annotated[Spec, BeforeValidator(_rest), PlainSerializer(Spec.dump)]


@OPTIMIZERS.register
def sgd(
    groups: list[dict[str, Any]], lr: float, *, momentum: Momentum = 0.9, nesterov: bool = True
) -> Optimizer:
    """Stochastic gradient descent with momentum, by default Nesterov's.

    Weight decay is added to the gradient.

    Args:
        momentum: Share of the running sum of gradients that a step keeps. 0 turns momentum off.
        nesterov: True: a step follows the gradient plus momentum times the updated running sum. False: a step
            follows the updated running sum itself.
    """
    # torch refuses nesterov without momentum, where both forms are the same.
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
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019).

    Decoupled means that weight decay shrinks the weights directly and is not part of the gradient.

    Args:
        betas: Decay rates of the running means of the gradient and of its square: the share kept at each
            step.
        eps: Number that is added to the denominator, which is the root of the mean square.
    """
    return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps, fused=_fused(groups))


@OPTIMIZERS.register
def lion(
    groups: list[dict[str, Any]], lr: float, *, betas: tuple[Momentum, Momentum] = (0.9, 0.99)
) -> Optimizer:
    """Sign of momentum, with decoupled decay (Lion, Chen et al. 2023).

    The implementation is timm's. At each step every weight moves by the learning rate, up or down. The paper
    takes a third to a tenth of AdamW's rate, and three to ten times its weight decay.

    Args:
        betas: First: share of the running mean in the direction of a step; the gradient has the other share.
            Second: share of the running mean that a step keeps.
    """
    from timm.optim import Lion  # pyright: ignore[reportPrivateImportUsage]

    return Lion(groups, lr=lr, betas=betas)


@OPTIMIZERS.register(hidden_apart=True)
def muon(
    groups: list[dict[str, Any]],
    lr: float,
    *,
    momentum: Momentum = 0.95,
    nesterov: bool = True,
    iterations: Annotated[int, Field(ge=1, lt=100)] = 5,
    scale: Literal["match_rms_adamw", "original"] = "match_rms_adamw",
    renormalize: bool = False,
    rest: Rest = "adamw",  # pyright: ignore[reportArgumentType]
    rest_rate: Annotated[float, Field(gt=0)] = 1.0,
) -> Optimizer:
    """Orthogonalized momentum for hidden matrices (Muon, Jordan et al. 2024).

    The implementation is timm's. Hidden matrices are the weights of the backbone's linear layers and
    convolutions, without the first layer and depthwise convolutions. A convolution's kernel counts as a
    matrix with a row for each output and inputs x height x width columns. The Newton-Schulz iteration runs in
    bfloat16, or in float32 if the device emulates bfloat16.

    Args:
        momentum: Share of the running mean of gradients that a step keeps. 0 turns momentum off.
        nesterov: Whether to mix the gradient once more into the running mean before it is orthogonalized.
        iterations: Number of Newton-Schulz iterations that orthogonalize a matrix.
        scale: Factor of the orthogonal matrix. match_rms_adamw: 0.2 sqrt(max(rows, columns)), which moves
            weights about as far as AdamW does at the same rate (Liu et al. 2025). original: sqrt(max(1, rows
            / columns)), which needs a rate about ten times as high.
        renormalize: Whether to scale each matrix to the norm sqrt(rows) before each step. This is for
            networks with a batch norm after each matrix: the rate is then the share by which a step changes
            the matrix (airbench, Jordan 2024).
        rest: Optimizer of all other parameters (the first layer, depthwise convolutions, norms, biases, the
            head, losses): sgd, adamw or lion.
        rest_rate: Learning rate of `rest`, divided by that of the matrices.

    Raises:
        ConfigError: If no hidden matrix is trained.
    """
    from timm.optim import Muon  # pyright: ignore[reportPrivateImportUsage]

    class Orthogonal(Muon):
        @torch.no_grad()
        def step(self, closure: Any = None) -> Any:
            matrices = [parameter for group in self.param_groups for parameter in group["params"]]
            for matrix in matrices if renormalize else ():
                matrix *= len(matrix) ** 0.5 / matrix.norm().clamp(min=1e-12)  # Zeros stay zeros.
            with nullcontext() if has_bfloat16(matrices[0].device) else _iterating_in_float32():
                return super().step(closure)

    hidden = [{**group, "use_muon": True} for group in groups if group["hidden"]]
    others = [{**g, "lr_scale": g.get("lr_scale", 1.0) * rest_rate} for g in groups if not g["hidden"]]
    if not hidden:
        raise ConfigError(
            "no hidden matrix is trained here; set optim.name=adamw, or freeze less of the backbone",
            ("optim", "name"),
        )
    matrices = Orthogonal(
        hidden, lr=lr, momentum=momentum, nesterov=nesterov, ns_steps=iterations, ns_coefficients="original",
        adjust_lr_fn=scale, conv_mode="flatten",
    )  # fmt: skip
    return Combined([matrices, rest.build(others, lr)] if others else [matrices])


@contextmanager
def _iterating_in_float32() -> Iterator[None]:
    """Let timm's Muon iterate in float32 within the context.

    timm offers bfloat16 only. Where it is emulated, it is 55 times as slow for a matrix of 512 x 4608.
    """
    import timm.optim.muon as library

    iterate = library.zeropower_via_newtonschulz
    library.zeropower_via_newtonschulz = partial(iterate, dtype=torch.float32)
    try:
        yield
    finally:
        library.zeropower_via_newtonschulz = iterate


def _fused(groups: list[dict[str, Any]]) -> bool | None:
    """Return the optimizer argument `fused`: True if possible, else None.

    None lets torch choose between loops and foreach. False would rule out foreach.
    """
    parameters = [parameter for group in groups for parameter in group["params"]]
    return all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in parameters) or None


def parameter_groups(
    module: nn.Module,
    weight_decay: float,
    decay_norms: bool,
    *,
    layer_decay: float = 1.0,
    hidden_apart: bool = False,
    norm_rate: float = 1.0,
) -> list[dict[str, Any]]:
    """Group the trainable parameters of a module for the optimizer.

    A group has one weight decay and, if options call for it, `lr_scale`: a factor of the learning rate.

    Args:
        module: The module. The methods named below are optional, and are called on each submodule.
        weight_decay: Weight decay of the parameters that are not exempt.
        decay_norms: False exempts parameters with at most one axis (norms and biases), and those whose names
            `no_weight_decay()` returns: in timm, class tokens and position embeddings.
        layer_decay: Below 1, `lr_scale` has the factor layer_decay ** depth (Howard and Ruder 2018; Bao et
            al. 2022). `layer_depths()` returns the depths. Parameters that it does not name have depth 0.
        hidden_apart: True adds a key `hidden`, which tells whether `hidden_matrices()` names the parameters.
        norm_rate: Factor of `lr_scale` for norms and biases (64 in airbench, Jordan 2024).
    """
    exempt = {
        _join(prefix, name)
        for prefix, part in module.named_modules()
        if hasattr(part, "no_weight_decay")
        for name in part.no_weight_decay()  # pyright: ignore[reportCallIssue]
    }
    depths = _depths(module) if layer_decay < 1 else {}
    hidden = _hidden_matrices(module) if hidden_apart else set()
    found: dict[tuple[int, float, bool, bool], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            is_flat, depth = parameter.ndim <= 1, depths.get(name, 0)
            is_exempt = not decay_norms and (is_flat or name in exempt)
            key = (depth, norm_rate if is_flat else 1.0, is_exempt, name in hidden)
            found.setdefault(key, []).append(parameter)
    groups = []
    for (depth, factor, is_exempt, is_hidden), parameters in sorted(found.items(), key=lambda item: item[0]):
        group = {"params": parameters, "weight_decay": 0.0 if is_exempt else weight_decay}
        group |= {"lr_scale": factor * layer_decay**depth} if layer_decay < 1 or norm_rate != 1 else {}
        groups.append(group | ({"hidden": is_hidden} if hidden_apart else {}))
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


def _hidden_matrices(module: nn.Module) -> set[str]:
    return {
        _join(prefix, name)
        for prefix, part in module.named_modules()
        if hasattr(part, "hidden_matrices")
        for name in part.hidden_matrices()  # pyright: ignore[reportCallIssue]
    }


def build_optimizer(optim: OptimConfig, modules: nn.Module | Iterable[nn.Module]) -> Optimizer:
    """Build a recipe's optimizer over all trainable parameters.

    Its learning rate is the schedule's peak. Move the modules to their device first: that decides whether
    fused kernels are used.

    Raises:
        ConfigError: Every parameter is frozen.
    """
    parts = nn.ModuleList([modules] if isinstance(modules, nn.Module) else modules)
    apart = optim.optimizer.part.traits.hidden_apart
    rates = {"layer_decay": optim.layer_decay, "norm_rate": optim.norm_rate}
    groups = parameter_groups(parts, optim.weight_decay, optim.decay_norms, hidden_apart=apart, **rates)
    if not groups:
        raise ConfigError("nothing to train: every parameter is frozen", ("model",))
    optimizer = optim.optimizer.build(groups, optim.lr)
    if optim.lookahead is not None:
        from timm.optim import Lookahead  # pyright: ignore[reportPrivateImportUsage]

        return Lookahead(optimizer, alpha=optim.lookahead.alpha, k=optim.lookahead.steps)
    return optimizer


class Combined(Optimizer):
    """Several optimizers that step together, each over its own parameters.

    They share `param_groups` and `state`. Code that sets a learning rate, scales gradients or saves a state
    dict therefore reaches all of them, as with any optimizer.
    """

    def __init__(self, parts: Sequence[Optimizer]):
        self.parts = [*parts]
        super().__init__([group for part in parts for group in part.param_groups], {})
        self._share()

    def _share(self) -> None:
        """Let the combined optimizers share this one's groups and state."""
        first = 0
        for part in self.parts:
            last = first + len(part.param_groups)
            part.param_groups, part.state = self.param_groups[first:last], self.state
            first = last

    def step(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        closure: None = None,  # noqa: ARG002  as `torch.optim.Optimizer`
    ) -> None:
        """Step each optimizer; the gradients must have been computed."""
        for part in self.parts:
            part.step()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore a result of `state_dict` in all combined optimizers."""
        super().load_state_dict(state_dict)
        self._share()
