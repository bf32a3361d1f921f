"""Corrupted pictures: four deterministic corruptions at five severities.

They follow Hendrycks and Dietterich (2019), at severities similar to those of CIFAR-10-C. The pictures are
not those of CIFAR-100-C, so accuracies on the two sets cannot be compared.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

SEVERITIES = {
    "gaussian_noise": (0.04, 0.06, 0.08, 0.09, 0.10),  # standard deviation, for pixels in [0, 1]
    "gaussian_blur": (0.4, 0.6, 0.7, 0.8, 1.0),  # standard deviation, in pixels
    "contrast": (0.75, 0.5, 0.4, 0.3, 0.15),  # share of the contrast that is left
    "jpeg": (80, 65, 58, 50, 40),  # quality
}


def corrupt(images: np.ndarray, ids: np.ndarray, kind: str, severity: int) -> np.ndarray:
    """Return corrupted copies (N, 3, H, W) uint8 of pictures.

    Args:
        images: Pictures (N, 3, H, W) uint8.
        ids: Seed of each picture's noise (N,).
        kind: gaussian_noise, gaussian_blur, contrast or jpeg.
        severity: 1 (weakest) to 5 (strongest).
    """
    return CORRUPTIONS[kind](images, ids, SEVERITIES[kind][severity - 1])


def _noise(images: np.ndarray, ids: np.ndarray, deviation: float) -> np.ndarray:
    worse = np.empty_like(images)
    for row, (picture, key) in enumerate(zip(images, ids.tolist(), strict=True)):
        # The seed depends on the picture only, so its noise is the same in every batch.
        noise = np.random.default_rng(key).standard_normal(picture.shape, dtype=np.float32)
        worse[row] = _rounded(picture + 255 * deviation * noise)
    return worse


def _blur(images: np.ndarray, _ids: np.ndarray, deviation: float) -> np.ndarray:
    radius = math.ceil(4 * deviation)
    kernel = torch.exp(-torch.arange(-radius, radius + 1, dtype=torch.float32).square() / (2 * deviation**2))
    kernel = (kernel / kernel.sum()).expand(3, 1, 1, -1)
    worse = np.empty_like(images)
    for start in range(0, len(images), 1000):
        values = torch.from_numpy(np.ascontiguousarray(images[start : start + 1000])).float()
        values = F.pad(values, (radius,) * 4, mode="replicate")
        values = F.conv2d(F.conv2d(values, kernel, groups=3), kernel.transpose(2, 3), groups=3)
        worse[start : start + 1000] = _rounded(values.numpy())
    return worse


def _contrast(images: np.ndarray, _ids: np.ndarray, left: float) -> np.ndarray:
    mean = images.mean((2, 3), keepdims=True, dtype=np.float32)
    return _rounded((images - mean) * np.float32(left) + mean)


def _jpeg(images: np.ndarray, _ids: np.ndarray, quality: float) -> np.ndarray:
    worse = np.empty_like(images)
    for row, picture in enumerate(images):
        buffer = io.BytesIO()
        Image.fromarray(picture.transpose(1, 2, 0)).save(buffer, "JPEG", quality=int(quality))
        worse[row] = np.asarray(Image.open(buffer)).transpose(2, 0, 1)
    return worse


def _rounded(values: np.ndarray) -> np.ndarray:
    return np.rint(values).clip(0, 255).astype(np.uint8)


CORRUPTIONS: dict[str, Callable[[np.ndarray, np.ndarray, float], np.ndarray]] = {
    "gaussian_noise": _noise,
    "gaussian_blur": _blur,
    "contrast": _contrast,
    "jpeg": _jpeg,
}
