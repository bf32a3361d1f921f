"""Records shared by all layers: a model's input, `Batch`, and its `Output`."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Output:
    """Output of a classifier for a batch.

    Attributes:
        logits: (B, C).
        embedding: (B, D), the input of the last layer.
        stages: Feature maps, first to last. Empty unless they were asked for.
        cosines: (B, C), the cosines between embedding and class directions. None if the head has no such
            directions.
        scale: Factor of the cosines: logits = scale x cosines.
        weight: (C, D), the head's weights, or (C x K, D) from a head with K directions per class. None if the
            logits are not products of embedding and weights.
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

    Attributes:
        images: (B, 3, H, W) float32 in [0, 1]. (B, 3, 0, 0) if `activations` replace them.
        labels: (B,) int64.
        targets: (B, C) float32. Each row sums to 1. They contain mixing, but no label smoothing.
        ids: (B,) int64, the index of each sample in its data set.
        teacher: Output of the teacher for the same view, or None.
        progress: Completed share of the run, in [0, 1]. A tensor if reading it must not synchronize the
            device.
        activations: (B, ...) output of the frozen part of the network, or None.
    """

    images: Tensor
    labels: Tensor
    targets: Tensor
    ids: Tensor
    teacher: Output | None = None
    progress: float | Tensor = 0.0
    activations: Tensor | None = None
