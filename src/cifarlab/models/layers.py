"""Facts about a backbone's parameters: their depth below the head, and which are hidden matrices."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from torch import nn
from torch.nn.modules.conv import _ConvNd

# A name that no pattern of a backbone matches. timm assigns such names to the top layer, the classifier's.
_HEAD = "the head"


def layer_depths(backbone: nn.Module) -> dict[str, int]:
    """Return each parameter's depth: how many layers it lies below the head.

    The head has the depth 0. The layers are those of the backbone's `group_matcher()` in timm's format, as
    timm groups them. Without a `group_matcher`, each child module is a layer, in order, and the backbone's
    own parameters belong to the first.
    """
    names = [name for name, _ in backbone.named_parameters()]
    matcher: Any = getattr(backbone, "group_matcher", None)
    if matcher is None:
        children = list(dict.fromkeys(name.partition(".")[0] for name in names if "." in name))
        depths = {child: len(children) - i for i, child in enumerate(children)}
        return {name: depths.get(name.partition(".")[0], max(1, len(children))) for name in names}
    from timm.models import group_parameters

    # timm counts the classifier as a layer. The backbone has none, so a placeholder name is added.
    named: Any = SimpleNamespace(named_parameters=lambda: ((name, None) for name in [*names, _HEAD]))
    layers: Any = group_parameters(named, matcher(coarse=False), reverse=True)
    return {name: layers[_HEAD] - layers[name] for name in names}


def hidden_matrices(backbone: nn.Module) -> list[str]:
    """Return the names of weights that map hidden features to hidden features.

    Muon is made for these (Jordan et al. 2024). They are the weights of linear layers and convolutions,
    except the first layer, which sees the picture, and depthwise convolutions, which mix no features.
    """
    layers = [
        (f"{name}.weight" if name else "weight", layer)
        for name, layer in backbone.named_modules()
        if isinstance(layer, nn.Linear | _ConvNd)
    ]
    return [name for name, layer in layers[1:] if layer.weight.shape[1] > 1]
