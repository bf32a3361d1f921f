"""Layers of a backbone: how far below the head each of its parameters lies, and which are hidden matrices."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from torch import nn
from torch.nn.modules.conv import _ConvNd

# No pattern of a backbone matches it: timm puts what it does not match on top, with the classifier.
_HEAD = "the head"


def layer_depths(backbone: nn.Module) -> dict[str, int]:
    """{parameter: how many layers it lies below the head, whose depth is 0}.

    The layers are those of the backbone's `group_matcher()` in timm's form, as timm groups them; without one,
    its children in order, and its own parameters with the first of them.
    """
    names = [name for name, _ in backbone.named_parameters()]
    matcher: Any = getattr(backbone, "group_matcher", None)
    if matcher is None:
        children = list(dict.fromkeys(name.partition(".")[0] for name in names if "." in name))
        depths = {child: len(children) - i for i, child in enumerate(children)}
        return {name: depths.get(name.partition(".")[0], max(1, len(children))) for name in names}
    from timm.models import group_parameters

    # The backbone has lost its classifier, which timm counts as a layer: a name stands in for it.
    named: Any = SimpleNamespace(named_parameters=lambda: ((name, None) for name in [*names, _HEAD]))
    layers: Any = group_parameters(named, matcher(coarse=False), reverse=True)
    return {name: layers[_HEAD] - layers[name] for name in names}


def hidden_matrices(backbone: nn.Module) -> list[str]:
    """The parameters that map hidden features to hidden features: what Muon is for (Jordan et al. 2024).

    Weights of linear layers and convolutions but the first, which sees the picture, and depthwise
    convolutions, which mix no features.
    """
    layers = [
        (f"{name}.weight" if name else "weight", layer)
        for name, layer in backbone.named_modules()
        if isinstance(layer, nn.Linear | _ConvNd)
    ]
    return [name for name, layer in layers[1:] if layer.weight.shape[1] > 1]
