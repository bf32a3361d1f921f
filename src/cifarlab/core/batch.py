"""The input of a model, `Batch`, and its output, `Output`.

In shapes, B is the number of samples, C of classes and D of values in an embedding.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Output:
    """Output of a classifier for a batch.

    Attributes:
        logits: (B, C).
        embedding: (B, D), the input of the last layer.
        stages: Feature maps (B, channels, height, width) of the backbone's stages, first to last. Empty
            unless the model was called with `stages=True`.
        cosines: (B, C), the cosines between the embedding and a direction for each class. None if the head
            has no such directions.
        scale: Factor of the cosines: logits = scale x cosines. Without meaning if `cosines` is None.
        weight: (C, D), weights of the last layer, or (C x K, D) if a class has K directions. None if the
            layer has a bias.
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
        labels: (B,) int64, the label of each picture before mixing.
        targets: (B, C) float32, class probabilities after mixing and before label smoothing. Rows sum to 1.
        ids: (B,) int64, the index of each sample in its part of the data set (train, val or test).
        teacher: Output of the teacher for the same augmented and mixed pictures. None if no loss reads it.
        progress: Completed share of the run, in [0, 1]. A 0-dim tensor on the device in
            training on a GPU, since CUDA graphs read it.
        activations: (B, ...) cached output of the frozen first part of the network. None if the model
            computes it from `images`.
    """

    images: Tensor
    labels: Tensor
    targets: Tensor
    ids: Tensor
    teacher: Output | None = None
    progress: float | Tensor = 0.0
    activations: Tensor | None = None
