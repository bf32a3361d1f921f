"""A small ResNet whose embedding has two numbers, so that it can be drawn."""

from torch import Tensor, nn

from cifarlab import BACKBONES
from cifarlab.models.blocks.staged import Staged, conv_norm, with_he_weights
from cifarlab.models.cifar.resnets import BasicBlock


class TwoNumbers(nn.Module):
    """(B, 3, S, S) pictures to (B, 2): a backbone, and a linear map of its features.

    wide: answer with the features themselves. The map is kept, untrained: a wide network's weights are so
    a start for one with two numbers.
    """

    def __init__(self, backbone: Staged, wide: bool):
        super().__init__()
        self.backbone, self.wide = backbone, wide
        self.narrow = nn.Linear(backbone.num_features, 2)
        self.num_features = backbone.num_features if wide else 2

    def forward(self, images: Tensor) -> Tensor:
        features = self.backbone(images)
        return features if self.wide else self.narrow(features)


@BACKBONES.register
def two_numbers(image_size: int, *, width: int = 8, wide: bool = False) -> TwoNumbers:
    """ResNet-18's form with CIFAR's stem: four stages of one block, width x 1, 2, 4 and 8 channels."""
    widths = [width * 2**stage for stage in range(4)]
    stages = [
        nn.Sequential(BasicBlock(inputs, outputs, stride))
        for inputs, outputs, stride in zip([width, *widths], widths, (1, 2, 2, 2), strict=False)
    ]
    network = Staged(
        conv_norm(3, width, 3), stages, num_features=widths[-1], image_size=image_size, min_image_size=8
    )
    return TwoNumbers(with_he_weights(network), wide)
