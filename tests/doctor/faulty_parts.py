"""Parts with a fault each, for the doctor to find."""

import numpy as np
from torch import nn

from cifarlab import BACKBONES, DATASETS, LOSSES
from cifarlab.data.splits import Pictures, digest_pictures


class Backbone(nn.Module):
    num_features = 16

    def __init__(self, factor, is_deaf):
        super().__init__()
        self.factor, self.is_deaf = factor, is_deaf
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, stride=4), nn.BatchNorm2d(16), nn.ReLU())
        self.last = nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, images):
        maps = self.stem(images)
        return self.factor * self.last(maps.detach() if self.is_deaf else maps).mean((2, 3))


@BACKBONES.register
def loud(image_size):
    """Features a thousand times as large as others'."""
    return Backbone(1000.0, False)


@BACKBONES.register
def deaf(image_size):
    """A first part that no gradient reaches."""
    return Backbone(1.0, True)


@LOSSES.register
def no_number(batch, output):
    """A loss that is not finite."""
    return output.logits.sum() * float("nan")


@LOSSES.register
def steep(batch, output):
    """A loss that is 0, and whose gradient is not finite."""
    return (output.logits * 0).sum().abs().sqrt()


@DATASETS.register
def altered(data, part, *, copies: int = 0):
    """Noise, of which `copies` pictures validate and train; with a reader's warning."""
    if part == "test":
        return None
    images = np.random.default_rng({"train": 0, "val": 1}[part]).integers(0, 256, (200, 3, 32, 32), np.uint8)
    if part == "val":
        images[:copies] = np.random.default_rng(0).integers(0, 256, (200, 3, 32, 32), np.uint8)[:copies]
    names = tuple(f"class {i}" for i in range(10))
    warnings = () if copies else ("these are not the published pictures",)
    return Pictures(images, np.arange(200) % 10, names, digest_pictures(images), warnings=warnings)
