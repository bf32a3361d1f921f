"""First layers for small pictures, which replace those of timm's models."""

from __future__ import annotations

from typing import Any

from torch import nn

from cifarlab.core.errors import ConfigError


def put_cifar_stem(model: Any, name: str) -> None:
    """Replace a ResNet's first layers by a 3x3 convolution, in place.

    It has stride 1, and no pooling follows it. `name` is the model's name, for the message.

    Raises:
        ConfigError: The model is not a ResNet that begins with one convolution.
    """
    from timm.models.resnet import ResNet

    conv = getattr(model, "conv1", None)
    # A deep stem already has three 3x3 convolutions; it has no established CIFAR form.
    if not isinstance(model, ResNet) or not isinstance(conv, nn.Conv2d):
        raise ConfigError(
            f"a CIFAR stem is for ResNets that begin with one convolution, such as resnet18, not {name}",
            ("model", "backbone", "stem"),
        )
    model.conv1 = nn.Conv2d(3, conv.out_channels, 3, stride=1, padding=1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")  # as in timm
    model.maxpool = nn.Identity()


def patch_options(name: str, patch: int) -> dict[str, int]:
    """Return timm's options for patches of `patch` px.

    There are none for a ConvNeXt, which `put_patches` changes instead.
    """
    from timm.models import model_entrypoint

    # With `patch_size=2`, timm's ConvNeXt also halves its maps in the first stage, so they would be no larger
    # than before.
    return {} if model_entrypoint(name).__module__ == "timm.models.convnext" else {"patch_size": patch}


def put_patches(model: Any, name: str, patch: int) -> None:
    """Let a ConvNeXt's first layer cut patches of `patch` px, in place.

    Other models are only checked, since they were created with `patch_options`.

    Raises:
        ConfigError: The model's first layer cannot cut patches of this size.
    """
    from timm.models.convnext import ConvNeXt

    conv = model.stem[0] if isinstance(model, ConvNeXt) else None
    if isinstance(conv, nn.Conv2d) and conv.kernel_size == conv.stride:
        renewed = nn.Conv2d(3, conv.out_channels, patch, stride=patch, bias=conv.bias is not None)
        nn.init.trunc_normal_(renewed.weight, std=0.02)  # as in timm
        if renewed.bias is not None:
            nn.init.zeros_(renewed.bias)
        model.stem[0] = renewed
    elif getattr(getattr(model, "patch_embed", None), "patch_size", None) != (patch, patch):
        raise no_patches(name)


def no_patches(name: str) -> ConfigError:
    """Return the error for a model without patches of an adjustable size."""
    return ConfigError(f"{name} has no adjustable patch size", ("model", "backbone", "patch"))
