"""`Border`, the end of a network's frozen first part, and `Tail`, the rest of the network as a model."""

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
    """The end of the frozen first part of a network.

    Attributes:
        modules: Names, within the classifier, of the modules that need not run, in the order of computation.
            The output of the last one is stored: the activations at the border.
        shapes: Shape of each module's output for one picture.
        dtype: Data type of the activations.
        channels_last: Whether maps are stored as (H, W, C) instead of (C, H, W).
    """

    modules: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtype: torch.dtype
    channels_last: bool

    @property
    def name(self) -> str:
        """Return the name of the module that outputs the activations."""
        return self.modules[-1]

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of one picture's activations."""
        return self.shapes[-1]

    @property
    def bytes_per_picture(self) -> int:
        """Return the size of one picture's activations in bytes."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize

    def to_rows(self, activations: Tensor) -> Tensor:
        """Convert activations (B, ...) to rows of a file, on the CPU.

        Maps become (H, W, C) if `channels_last`. bfloat16 becomes int16 with the same bits, since numpy has
        no bfloat16. `from_rows` is the inverse.
        """
        if self.channels_last:
            activations = activations.permute(0, 2, 3, 1)
        rows = activations.contiguous().cpu()
        # numpy has no bfloat16.
        return rows.view(torch.int16) if self.dtype == torch.bfloat16 else rows

    def from_rows(self, rows: Tensor) -> Tensor:
        """Convert rows of a file to activations (B, ...), as the network outputs them."""
        activations = rows.view(self.dtype)
        return activations.permute(0, 3, 1, 2) if self.channels_last else activations


class Tail(nn.Module):
    """The part of a classifier after the border, which maps activations to an Output.

    It shares all trained modules with the classifier. Modules before the border do not run.
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
        """Return a module in which no part before the border runs.

        Parts after the border are shared with the original.
        """
        if not any(f"{other}.".startswith(f"{name}.") for other in border.modules):
            return module
        # As in torch's own replicas: a new object with other children and otherwise the same attributes.
        shallow = module.__new__(type(module))
        shallow.__dict__ = module.__dict__.copy()
        if name in border.modules:
            # It replaces a module that does not run, so that module's hooks must not run either.
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
        """Set training or evaluation mode.

        Batch norms named in the classifier's `norms_in_eval` always stay in evaluation mode.
        """
        super().train(mode)
        for name in self._norms_in_eval:
            self.get_submodule(name).eval()
        return self

    def forward(
        self,
        activations: Tensor,
        image_size: int | None = None,  # noqa: ARG002  as `Classifier`
        stages: bool = False,
    ) -> Output:
        """Classify pictures by their activations (B, ...) at the border.

        Calls may pass the other arguments of `Classifier.forward`, too. `image_size` is ignored. `stages`
        must be False.
        """
        assert not stages, "the maps of stages before the border are not kept"
        # Operations outside the modules before the border run on blank pictures.
        blank = _give_blank(self._picture, activations)
        self._kept.append(activations)
        try:
            return self.head(self.backbone(blank))
        finally:
            self._kept.clear()


def _give_blank(shape: tuple[int, ...], given: Tensor, *_: object, **__: object) -> Tensor:
    """Return zeros of shape (len(given), *shape) that take no memory."""
    return torch.zeros((), device=given.device).expand(len(given), *shape)


class _Reached(Exception):
    """Raised to end a forward pass at the border."""


@torch.no_grad()
def activations_at(
    classifier: Classifier, border: Border, images: Tensor, precision: Precision, image_size: int
) -> Tensor:
    """Compute the activations at the border for (B, 3, H, W) pictures.

    Modules after the border do not run.
    """
    found: list[Tensor] = []

    def reach(_module: nn.Module, _given: object, output: Tensor) -> None:
        found.append(output)
        raise _Reached

    hook = classifier.get_submodule(border.name).register_forward_hook(reach)
    try:
        with precision.autocast():
            classifier.backbone(classifier.preprocess(precision.layout(images), image_size))
    except _Reached:
        pass
    finally:
        hook.remove()
    return found[0]


def no_images(count: int, device: torch.device) -> Tensor:
    """Return empty images, (count, 3, 0, 0), for a batch of activations."""
    return torch.empty(count, 3, 0, 0, device=device)


def _is_below(name: str, modules: Sequence[str]) -> bool:
    return any(f"{name}.".startswith(f"{module}.") for module in modules)
