"""Policies that were found by search, and their tables."""

from cifarlab.augment.searched import policies

__all__ = ["policies"]
