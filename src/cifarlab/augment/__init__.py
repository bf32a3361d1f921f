"""Augmentations, policies and mixers, which change a whole batch on the device that holds it.

A policy chooses which augmentations run on which samples. A mixer combines pairs of samples, as mixup does.
Random numbers are drawn for each sample, or by mixers for each pair of samples.
"""

from cifarlab.augment import color, enhance, erase, geometry, pipelines, searched, tones, warps
from cifarlab.augment.kernels import Kernel, Lowered, lowers
from cifarlab.augment.mixers import mix_batch, pair_draws, partners
from cifarlab.augment.policies import apply

__all__ = [
    "Kernel",
    "Lowered",
    "apply",
    "color",
    "enhance",
    "erase",
    "geometry",
    "lowers",
    "mix_batch",
    "pair_draws",
    "partners",
    "pipelines",
    "searched",
    "tones",
    "warps",
]
