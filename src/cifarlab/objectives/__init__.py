"""Objectives: named losses and their weighted sum."""

from cifarlab.objectives.distillation import FitNet, distill, dkd, rkd
from cifarlab.objectives.losses import arcface, cosface, cross_entropy
from cifarlab.objectives.objective import Objective, build_objective

__all__ = [
    "FitNet", "Objective", "arcface", "build_objective", "cosface", "cross_entropy", "distill", "dkd", "rkd",
]  # fmt: skip
