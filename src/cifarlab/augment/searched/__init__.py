"""Policies from the literature on augmentation search, and tables of their operations."""

from cifarlab.augment.searched import policies

__all__ = ["policies"]
