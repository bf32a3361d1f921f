"""Backbones made for pictures of 32 x 32 pixels."""

from cifarlab.models.cifar import convnets, pyramids, resnets, speed_resnets, transformers

__all__ = ["convnets", "pyramids", "resnets", "speed_resnets", "transformers"]
