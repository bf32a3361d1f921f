"""Small batches and outputs that the tests of losses share."""

import torch
import torch.nn.functional as F
from torch import Tensor

from cifarlab.core.batch import Batch, Output

CLASSES, WIDTH, ROWS = 7, 12, 16


def batch_of(labels: Tensor, targets: Tensor | None = None, classes: int = CLASSES) -> Batch:
    hard = F.one_hot(labels, classes).float()
    return Batch(torch.zeros(len(labels), 3, 2, 2), labels, hard if targets is None else targets, labels)


def random_batch(kind: str = "hard") -> Batch:
    labels = torch.randint(CLASSES, (ROWS,))
    hard = F.one_hot(labels, CLASSES).float()
    targets = {"hard": hard, "smoothed": 0.9 * hard + 0.1 / CLASSES, "mixed": 0.6 * hard + 0.4 * hard.flip(0)}
    return batch_of(labels, targets[kind])


def cosine_output(embedding: Tensor, weight: Tensor, scale: float = 1.0) -> Output:
    cosines = F.normalize(embedding) @ F.normalize(weight).t()
    return Output(scale * cosines, embedding, cosines=cosines, scale=scale, weight=weight)


def product_output(embedding: Tensor, weight: Tensor) -> Output:
    return Output(embedding @ weight.t(), embedding, weight=weight)
