"""Batched image operations with per-sample draws, policies and mixers, on whatever device the batch is."""

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
