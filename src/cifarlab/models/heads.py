"""Heads, which map (B, F) features to an `Output` with logits and an embedding.

A head's attribute `num_features` is the length of its embedding.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from cifarlab.core.batch import Output
from cifarlab.core.registries import HEADS


@HEADS.register(name="linear", products=True)
class Linear(nn.Module):
    """One linear layer from the features to the logits.

    The embedding is the backbone's features, standardised if `norm` is batch.

    Args:
        norm: What is done to the features first. none: nothing. batch: a batch norm without scale and shift
            standardises each feature to mean 0 and standard deviation 1 over the batch. One learning rate
            then suits all features, which a linear probe needs.
        dropout: Share of the features that dropout sets to 0 in training, drawn for each picture and step
            (Srivastava et al. 2014). 0: none.
        bias: Whether the layer adds a bias to each logit. The loss lsoftmax needs a layer without bias, whose
            logits are products of the embedding and the class's weight alone.
        scale: Factor of the logits. A factor below 1 keeps a network that learns fast from becoming confident
            too early (Page 2018).
    """

    def __init__(
        self,
        num_features: int,
        num_classes: int,
        *,
        norm: Literal["none", "batch"] = "none",
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        bias: bool = True,
        scale: Annotated[float, Field(gt=0)] = 1.0,
    ):
        super().__init__()
        self.num_features, self.scale = num_features, scale
        self.norm = nn.BatchNorm1d(num_features, affine=False) if norm == "batch" else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(num_features, num_classes, bias=bias)

    def forward(self, features: Tensor) -> Output:
        """Return the logits (B, C) and the embedding (B, F) of pooled features (B, F).

        The embedding is the features, normalised if `norm` says so.
        """
        features = self.norm(features)
        weight = None if self.fc.bias is not None else self.scale * self.fc.weight
        return Output(self.scale * self.fc(self.dropout(features)), embedding=features, weight=weight)


@HEADS.register(name="margin", cosines=True)
class Margin(nn.Module):
    """Cosines between the embedding and a direction for each class.

    ArcFace, CosFace and SphereFace apply their margin to these cosines. The margin itself is an option of the
    loss. The embedding is the features after a linear layer and a batch norm.

    Args:
        dim: Length of the embedding.
        scale: Factor of the cosines: logits = scale x cosines.
        centers: Number of directions of each class. Only the one nearest to the embedding counts (sub-center
            ArcFace, Deng et al. 2020). Several directions suit classes whose pictures form several groups,
            and may separate pictures with a wrong label from the others.
    """

    def __init__(
        self,
        num_features: int,
        num_classes: int,
        *,
        dim: Annotated[int, Field(ge=1)] = 512,
        scale: Annotated[float, Field(gt=0)] = 64.0,
        centers: Annotated[int, Field(ge=1)] = 1,
    ):
        super().__init__()
        self.num_features = dim
        self.scale, self.centers = scale, centers
        self.embed = nn.Linear(num_features, dim, bias=False)
        self.norm = nn.BatchNorm1d(dim)
        self.weight = nn.Parameter(torch.empty(num_classes * centers, dim))
        # Only the direction of a row matters. Its length sets how fast the direction changes.
        nn.init.normal_(self.weight, std=0.01)

    def forward(self, features: Tensor) -> Output:
        """Return the logits (B, C) and the embedding (B, D) of pooled features (B, F)."""
        embedding = self.norm(self.embed(features))
        # A cosine near 1 needs float32: the step of bf16 there is 1/256, which is 0.25 in the logits at scale
        # 64.
        with torch.autocast(features.device.type, enabled=False):
            embedding, weight = embedding.float(), self.weight.float()
            cosines = F.normalize(embedding) @ F.normalize(weight).t()
            if self.centers > 1:
                cosines = cosines.unflatten(1, (-1, self.centers)).amax(2)
            return Output(
                self.scale * cosines, embedding, cosines=cosines, scale=self.scale, weight=self.weight
            )
