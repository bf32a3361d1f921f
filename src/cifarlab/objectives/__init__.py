"""Objectives: named losses and their weighted sum."""

from cifarlab.objectives.losses import arcface, cosface, cross_entropy
from cifarlab.objectives.objective import Objective, build_objective

__all__ = ["Objective", "arcface", "build_objective", "cosface", "cross_entropy"]
