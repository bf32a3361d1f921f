"""A small ResNet whose embedding has so few numbers that it can be drawn."""

from typing import Annotated

from pydantic import Field
from torch import nn

from cifarlab import BACKBONES
from cifarlab.models.cifar_resnets import BasicBlock
from cifarlab.models.staged import Staged, conv_norm, with_he_weights


@BACKBONES.register
def narrow_end_resnet(
    image_size: int, *, width: int = 16, numbers: Annotated[int, Field(ge=1)] = 2
) -> Staged:
    """ResNet-18's form with CIFAR's stem, three stages of one block, and a linear map to `numbers`.

    width: channels of the first stage; the others have 2 and 4 times as many. No ReLU follows the map, so
    that embeddings take every direction.
    """
    widths = [width, 2 * width, 4 * width]
    stages = [
        nn.Sequential(BasicBlock(inputs, outputs, stride))
        for inputs, outputs, stride in zip([width, *widths], widths, (1, 2, 2), strict=False)
    ]
    network = with_he_weights(
        Staged(conv_norm(3, width, 3), stages, num_features=numbers, image_size=image_size, reduction=4)
    )
    network.last = nn.Conv2d(widths[-1], numbers, 1)
    return network
