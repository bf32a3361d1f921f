"""The records that cross module borders: `Batch`, what a model is shown, and `Output`, what it answers."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Output:
    """What a classifier says of a batch.

    logits: (B, C). embedding: (B, D), what the last layer sees. stages: feature maps, first to last, where
    asked for. A head that compares directions also gives cosines (B, C) and scale (logits = scale x cosines);
    one whose logits are products with embeddings gives weight (C, D); with K directions a class (C x K, D).
    """

    logits: Tensor
    embedding: Tensor
    stages: tuple[Tensor, ...] = ()
    cosines: Tensor | None = None
    scale: float | Tensor = 1.0
    weight: Tensor | None = None


@dataclass(frozen=True)
class Batch:
    """A batch as the model sees it: augmented and mixed.

    images: (B, 3, H, W) float32 in [0, 1]. labels: (B,) int64. targets: (B, C) float32, rows that sum to 1
    and carry mixing only. indices: (B,) int64, each sample's index in its data set. teacher: its output for
    the same view, or None. activations: (B, ...) what the frozen part of the network gives for the pictures,
    which are then (B, 3, 0, 0); or None. progress: the share of the run that is over;
    a tensor where the device must not be waited for.
    """

    images: Tensor
    labels: Tensor
    targets: Tensor
    indices: Tensor
    teacher: Output | None = None
    progress: float | Tensor = 0.0
    activations: Tensor | None = None
