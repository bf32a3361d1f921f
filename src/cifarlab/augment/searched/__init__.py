"""Augmentation policies that were found by search, and their tables of operations."""

from cifarlab.augment.searched import policies

__all__ = ["policies"]
