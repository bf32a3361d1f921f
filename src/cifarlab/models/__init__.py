"""Classifiers: backbones, heads, preprocessing of pictures, and loading of weights."""

from cifarlab.models import backbones, cifar, heads

# These modules register parts.
__all__ = ["backbones", "cifar", "heads"]
