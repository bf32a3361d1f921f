"""Ten classes of blurred patterns in noise: a data set that takes no time to draw and a second to learn."""

import numpy as np

from cifarlab import DATASETS
from cifarlab.data.splits import Pictures, digest_pictures


@DATASETS.register
def blobs(data, part, *, train: int = 400, test: int = 200):
    """Patterns of 4 x 4 in noise; no validation part of its own."""
    if part == "val":
        return None
    patterns = np.random.default_rng(0).integers(-40, 40, (10, 3, 4, 4)).repeat(8, 2).repeat(8, 3)
    count, seed = (train, 1) if part == "train" else (test, 2)
    labels = np.arange(count) % 10
    noise = np.random.default_rng(seed).normal(0, 40, (count, 3, 8, 8)).repeat(4, 2).repeat(4, 3)
    images = (128 + patterns[labels] + noise).clip(0, 255).astype(np.uint8)
    return Pictures(images, labels, tuple("abcdefghij"), digest_pictures(images))
