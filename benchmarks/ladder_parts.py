"""A ResNet small enough to climb the ladder on a CPU: ResNet-18's form, a block a stage, narrow."""

from typing import Literal

from torch import nn

from cifarlab import BACKBONES
from cifarlab.models.blocks.staged import Staged, conv_norm, with_he_weights
from cifarlab.models.cifar.resnets import BasicBlock


@BACKBONES.register
def small_resnet(
    image_size: int, *, stem: Literal["imagenet", "cifar"] = "imagenet", width: int = 8
) -> Staged:
    """Four stages of one basic block, width x 1, 2, 4 and 8 channels; the stems are ResNet-18's two."""
    if stem == "cifar":
        first = conv_norm(3, width, 3)
    else:
        first = nn.Sequential(conv_norm(3, width, 7, stride=2), nn.MaxPool2d(3, 2, 1))
    widths = [width * 2**stage for stage in range(4)]
    stages = [
        nn.Sequential(BasicBlock(inputs, outputs, stride))
        for inputs, outputs, stride in zip([width, *widths], widths, (1, 2, 2, 2), strict=False)
    ]
    return with_he_weights(
        Staged(first, stages, num_features=widths[-1], image_size=image_size, min_image_size=8)
    )
