"""Classifiers: backbones, heads, preprocessing of pictures, and loading of weights."""

from cifarlab.models import cifar
from cifarlab.models.backbones import timm_backbone
from cifarlab.models.classifier import Classifier, build_classifier
from cifarlab.models.freezing import describe_frozen, freeze
from cifarlab.models.heads import Linear, Margin
from cifarlab.models.weights import LoadReport, init_from, load_weights, read_weights

__all__ = [
    "Classifier",
    "Linear",
    "LoadReport",
    "Margin",
    "build_classifier",
    "cifar",
    "describe_frozen",
    "freeze",
    "init_from",
    "load_weights",
    "read_weights",
    "timm_backbone",
]
