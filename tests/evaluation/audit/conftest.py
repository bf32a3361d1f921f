"""A small data set with planted faults, as the audit would meet them."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cifarlab.core.registries import DATASETS
from cifarlab.data.splits import Pictures, digest_pictures


def noise(count: int, seed: int, side: int = 32) -> np.ndarray:
    """(count, 3, side, side) uint8: blotches of random colour, none like another."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 7, 7, generator=generator)
    smooth = F.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1)
    return (smooth * 255).round().byte().numpy()


def pictures(images: np.ndarray, labels: np.ndarray, classes: int = 4) -> Pictures:
    names = tuple(f"class_{i}" for i in range(classes))
    return Pictures(images, labels.astype(np.int64), names, digest_pictures(images))


@pytest.fixture
def planted(monkeypatch):
    """`planted(train=..., test=...)` is a data set's name."""
    taken = []

    def register(**parts):
        def planted_pictures(data, part):
            """Pictures with planted faults."""
            return parts.get(part)

        name = f"planted_pictures_{len(taken)}"
        planted_pictures.__name__ = name
        DATASETS.register(planted_pictures)
        taken.append(name)
        return name

    yield register
    for name in taken:
        del DATASETS._parts[name]
