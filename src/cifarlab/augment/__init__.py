"""Batched augmentations with per-sample random numbers, policies and mixers, on the device of the batch."""

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
