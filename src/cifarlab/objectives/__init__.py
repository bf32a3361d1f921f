"""Losses by name, and `Objective`, their weighted sum."""

from cifarlab.objectives.classification import arcface, cosface, cross_entropy, lsoftmax, sphereface
from cifarlab.objectives.distillation import FitNet, distill, dkd, rkd
from cifarlab.objectives.metric_learning import supcon, triplet
from cifarlab.objectives.objective import Objective, build_objective

__all__ = [
    "FitNet", "Objective", "arcface", "build_objective", "cosface", "cross_entropy", "distill", "dkd",
    "lsoftmax", "rkd", "sphereface", "supcon", "triplet",
]  # fmt: skip
