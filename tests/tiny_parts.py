"""A backbone small enough for tests, as a recipe's `imports:` bring one in."""

from torch import nn

from cifarlab import BACKBONES


@BACKBONES.register
def tiny(image_size, *, width: int = 8, dropout: float = 0.1):
    """Two convolutions, batch norm and dropout: all that a run's state may depend on."""
    net = nn.Sequential(
        nn.Conv2d(3, width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(2 * width), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(dropout),
    )  # fmt: skip
    net.num_features = 2 * width
    return net
