"""`Staged`, a convolutional network without a classifier: a stem, stages of blocks, and final layers."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from cifarlab.core.errors import ConfigError


class Staged(nn.Module):
    """A convolutional network without a classifier.

    It maps (B, 3, S, S) normalised pictures to (B, F) features: stem, stages, last, then the mean over the
    map.

    Args:
        stem: The first layers.
        stages: The stages, each a sequence of blocks.
        last: Layers between the stages and the pooling, if any.
        num_features: F, the channels of the map that is pooled.
        image_size: S, the side length in pixels.
        min_image_size: Smallest supported side length in pixels.

    Attributes:
        stage_names: Names of the submodules whose output maps (B, C, H, W) count as stages, first to last.
            The output of the last one is pooled. So `last`, if there is one, counts as a stage, too.

    Raises:
        ConfigError: `image_size` is below `min_image_size`.
    """

    def __init__(
        self,
        stem: nn.Module,
        stages: Iterable[nn.Sequential],
        *,
        last: nn.Module | None = None,
        num_features: int,
        image_size: int,
        min_image_size: int,
    ):
        if image_size < min_image_size:
            message = f"this backbone takes pictures of {min_image_size} px or more, not of {image_size}"
            raise ConfigError(message, ("data", "image_size"))
        super().__init__()
        self.stem = stem
        self.stages = nn.ModuleList(stages)
        self.last = last
        self.num_features = num_features
        names = tuple(f"stages.{index}" for index in range(len(self.stages)))
        self.stage_names: tuple[str, ...] = names if last is None else (*names, "last")

    def forward(self, images: Tensor) -> Tensor:
        """Return features (B, F) of pictures (B, 3, H, W)."""
        maps = self.stem(images)
        for stage in self.stages:
            maps = stage(maps)
        if self.last is not None:
            maps = self.last(maps)
        return self.pool(maps)

    def pool(self, maps: Tensor) -> Tensor:
        """Pool (B, F, H, W) maps to (B, F) features."""
        return maps.mean((-2, -1))

    def group_matcher(self, coarse: bool = False) -> dict[str, str | list[tuple[str, tuple[int] | None]]]:
        """Return patterns that assign parameters to layers, in timm's format.

        The stem is a layer, and each block is one (with `coarse`, each stage). `last` joins the layer of the
        block or stage before it. The number 99999 stands for this in timm's format.
        """
        blocks = r"^stages\.(\d+)" if coarse else r"^stages\.(\d+)\.(\d+)"
        return {"stem": r"^stem", "blocks": [(blocks, None), (r"^last", (99999,))]}


def conv_norm(
    inputs: int,
    outputs: int,
    kernel: int,
    *,
    stride: int = 1,
    groups: int = 1,
    bias: bool = False,
    relu: bool = True,
) -> nn.Sequential:
    """Return a convolution with batch norm and, unless relu=False, ReLU.

    The convolution keeps the map's size at stride 1.
    """
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=bias)
    layers: list[nn.Module] = [conv, nn.BatchNorm2d(outputs)]
    return nn.Sequential(*layers, *([nn.ReLU(inplace=True)] if relu else []))


def with_he_weights(network: Staged) -> Staged:
    """Initialise convolutions in place as He et al. (2015) do for ReLU.

    The variance of the weights is set by the fan-out. Biases are 0. The network is returned.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return network
