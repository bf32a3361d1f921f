"""First layers of timm's models for small pictures, in place of their own."""

from __future__ import annotations

from typing import Any

from torch import nn

from cifarlab.core.errors import ConfigError


def put_cifar_stem(model: Any, name: str) -> None:
    """Let a ResNet begin with a 3x3 convolution of stride 1, without pooling, in place.

    Raises ConfigError where the model is no ResNet that begins with one convolution.
    """
    from timm.models.resnet import ResNet

    conv = getattr(model, "conv1", None)
    # A deep stem is three 3x3 convolutions already: what its CIFAR form would be is open.
    if not isinstance(model, ResNet) or not isinstance(conv, nn.Conv2d):
        raise ConfigError(
            f"a CIFAR stem is for ResNets that begin with one convolution, such as resnet18, not {name}",
            ("model", "backbone", "stem"),
        )
    model.conv1 = nn.Conv2d(3, conv.out_channels, 3, stride=1, padding=1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")  # as timm's
    model.maxpool = nn.Identity()


def patch_options(name: str, patch: int) -> dict[str, int]:
    """What timm is told, for patches of `patch` px: nothing where `put_patches` does it."""
    from timm.models import model_entrypoint

    # Told of 2, timm's ConvNeXt halves its maps in the first stage, too: they are no larger than before.
    return {} if model_entrypoint(name).__module__ == "timm.models.convnext" else {"patch_size": patch}


def put_patches(model: Any, name: str, patch: int) -> None:
    """Let a ConvNeXt cut patches of `patch` px, in place. Raises ConfigError for a model that does not."""
    from timm.models.convnext import ConvNeXt

    conv = model.stem[0] if isinstance(model, ConvNeXt) else None
    if isinstance(conv, nn.Conv2d) and conv.kernel_size == conv.stride:
        renewed = nn.Conv2d(3, conv.out_channels, patch, stride=patch, bias=conv.bias is not None)
        nn.init.trunc_normal_(renewed.weight, std=0.02)  # as timm's
        if renewed.bias is not None:
            nn.init.zeros_(renewed.bias)
        model.stem[0] = renewed
    elif getattr(getattr(model, "patch_embed", None), "patch_size", None) != (patch, patch):
        raise no_patches(name)


def no_patches(name: str) -> ConfigError:
    """The mistake of asking for the patches of a model that cuts none."""
    return ConfigError(f"{name} cuts no patches whose size can be set", ("model", "backbone", "patch"))
