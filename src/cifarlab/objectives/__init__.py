"""Objectives: named losses and their weighted sum."""

from cifarlab.objectives.distillation import FitNet, distill, dkd, rkd
from cifarlab.objectives.losses import cross_entropy
from cifarlab.objectives.margins import arcface, cosface, lsoftmax, sphereface, supcon, triplet
from cifarlab.objectives.objective import Objective, build_objective

__all__ = [
    "FitNet", "Objective", "arcface", "build_objective", "cosface", "cross_entropy", "distill", "dkd",
    "lsoftmax", "rkd", "sphereface", "supcon", "triplet",
]  # fmt: skip
