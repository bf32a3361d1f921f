"""A network from its border on, as a model of its own, and what it begins from."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from cifarlab.core.batch import Output
from cifarlab.core.device import Precision
from cifarlab.models.classifier import Classifier

BACKBONE = "backbone"


@dataclass(frozen=True)
class Border:
    """Where the frozen first part of a network ends.

    modules: names within the classifier of what need not run, in the order of computation; the last one gives
    the activations at the border. shapes: of each one's output for one picture. dtype: of the activations.
    channels_last: whether they lie (H, W, C) in memory.
    """

    modules: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtype: torch.dtype
    channels_last: bool

    @property
    def name(self) -> str:
        """The module whose output is kept."""
        return self.modules[-1]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one picture's activations."""
        return self.shapes[-1]

    @property
    def bytes_per_picture(self) -> int:
        return torch.Size(self.shape).numel() * self.dtype.itemsize


class Tail(nn.Module):
    """A classifier from the border on: (B, ...) activations at the border -> Output.

    It shares all trained modules with the classifier; those before the border do not run.
    """

    def __init__(self, classifier: Classifier, border: Border):
        super().__init__()
        self._kept: list[Tensor] = []
        self._picture = (3, classifier.image_size, classifier.image_size)
        self.backbone = self._without(classifier.backbone, border, BACKBONE)
        self.head = classifier.head
        self._norms_in_eval = [
            name for name in classifier.norms_in_eval if not _is_below(name, border.modules)
        ]
        self.train(classifier.training)

    def _without(self, module: nn.Module, border: Border, name: str) -> nn.Module:
        """A module that shares its parts with `module` but for those before the border."""
        if not any(f"{other}.".startswith(f"{name}.") for other in border.modules):
            return module
        # As torch's own replicas: another object with other children, and all else the same.
        shallow = module.__new__(type(module))
        shallow.__dict__ = module.__dict__.copy()
        if name in border.modules:
            # It stands in for a module that does not run: neither do that module's hooks.
            shallow._forward_hooks, shallow._forward_pre_hooks = OrderedDict(), OrderedDict()
        if name == border.name:
            shallow._modules = {}
            shallow.forward = self._give_kept
        elif name in border.modules:
            shallow._modules = {}
            shallow.forward = partial(_give_blank, border.shapes[border.modules.index(name)])
        else:
            shallow._modules = {
                key: child and self._without(child, border, f"{name}.{key}")
                for key, child in module._modules.items()
            }
        return shallow

    def _give_kept(self, *_: object, **__: object) -> Tensor:
        return self._kept[0]

    def train(self, mode: bool = True) -> Tail:
        """Set training or evaluation mode, as the classifier does."""
        super().train(mode)
        for name in self._norms_in_eval:
            self.get_submodule(name).eval()
        return self

    def forward(self, activations: Tensor, size: int | None = None, stages: bool = False) -> Output:
        """Classify (B, ...) activations at the border. size: of the pictures that they were computed from."""
        assert not stages, "the maps of stages before the border are not kept"
        # What a network does between the modules before the border, it does to blank pictures.
        blank = _give_blank(self._picture, activations)
        self._kept.append(activations)
        try:
            return self.head(self.backbone(blank))
        finally:
            self._kept.clear()


def _give_blank(shape: tuple[int, ...], given: Tensor, *_: object, **__: object) -> Tensor:
    """(B, *shape) zeros that take no memory."""
    return torch.zeros((), device=given.device).expand(len(given), *shape)


class _Reached(Exception):
    """The forward pass has come to the border."""


@torch.no_grad()
def activations_at(
    classifier: Classifier, border: Border, images: Tensor, precision: Precision, size: int
) -> Tensor:
    """Compute the activations at the border for (B, 3, H, W) views; what lies behind it does not run."""
    found: list[Tensor] = []

    def reach(module: nn.Module, given: object, output: Tensor) -> None:
        found.append(output)
        raise _Reached

    hook = classifier.get_submodule(border.name).register_forward_hook(reach)
    try:
        with precision.autocast():
            classifier.backbone(classifier.preprocess(precision.layout(images), size))
    except _Reached:
        pass
    finally:
        hook.remove()
    return found[0]


def no_images(count: int, device: torch.device) -> Tensor:
    """(count, 3, 0, 0): the pictures of a batch whose activations are replayed."""
    return torch.empty(count, 3, 0, 0, device=device)


def _is_below(name: str, modules: Sequence[str]) -> bool:
    return any(f"{name}.".startswith(f"{module}.") for module in modules)
