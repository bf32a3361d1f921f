"""Transformers for pictures of 32 px: ViT-Lite and the compact convolutional transformer (CCT).

Both are networks of Hassani et al. (2021).
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn

from cifarlab.core.errors import ConfigError
from cifarlab.core.registries import BACKBONES

FEATURES, LAYERS, HEADS = 256, 7, 4  # of both networks
Rate = Annotated[float, Field(ge=0, lt=1)]


class SequencePool(nn.Module):
    """Pooling of (B, N, F) tokens to their weighted mean, (B, F).

    The weights are the softmax of a learnt score.
    """

    def __init__(self, num_features: int):
        super().__init__()
        self.score = nn.Linear(num_features, 1)

    def forward(self, tokens: Tensor) -> Tensor:
        """Pool (B, N, F) tokens to (B, F) features."""
        return (self.score(tokens).softmax(1) * tokens).sum(1)


class CompactTransformer(nn.Module):
    """A convolutional stem and transformer blocks. Each pixel of the stem's map is a token.

    It maps (B, 3, S, S) normalised pictures to (B, F) features. Position embeddings are learnt, so S is
    fixed. The blocks are timm's: layer norm, attention, layer norm, MLP. The code that produced the paper's
    results differs: its second norm is applied to the residual sum itself, not only to the input of the MLP.

    Args:
        stem: Maps (B, 3, S, S) to (B, F, side, side).
        side: Side length of the stem's map in pixels.
        pool: Maps (B, N, F) tokens to (B, F) features. None: the features are those of a class token.
        drop_path: Rate of stochastic depth in the last block. The rate grows linearly over the blocks, from 0
            in the first.
        attention_dropout: Dropout rate of the attention weights.
    """

    stage_names: tuple[str, ...] = ()  # tokens are not maps

    def __init__(
        self, stem: nn.Module, side: int, pool: nn.Module | None, drop_path: float, attention_dropout: float
    ):
        super().__init__()
        from timm.models.vision_transformer import Block  # takes seconds, so not at the top of the module

        self.num_features = FEATURES
        self.class_token = nn.Parameter(torch.zeros(1, 1, FEATURES)) if pool is None else None
        self.positions = nn.Parameter(torch.empty(1, side**2 + (pool is None), FEATURES))
        self.stem = stem
        depths = [drop_path * index / (LAYERS - 1) for index in range(LAYERS)]
        self.blocks = nn.Sequential(
            *(Block(FEATURES, HEADS, 2, attn_drop=attention_dropout, drop_path=depth) for depth in depths)
        )
        self.norm = nn.LayerNorm(FEATURES, eps=1e-6)  # as in timm's blocks
        self.pool = pool
        self._draw_weights()

    def _draw_weights(self) -> None:
        """Initialise the weights as in the authors' code."""
        nn.init.trunc_normal_(self.positions, std=0.2)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)

    def forward(self, images: Tensor) -> Tensor:
        """Return features (B, F) of pictures (B, 3, H, W)."""
        tokens = self.stem(images).flatten(2).transpose(1, 2)
        if self.class_token is not None:
            tokens = torch.cat([self.class_token.expand(len(tokens), -1, -1), tokens], 1)
        tokens = self.norm(self.blocks(tokens + self.positions))
        return tokens[:, 0] if self.pool is None else self.pool(tokens)

    def group_matcher(
        self,
        coarse: bool = False,  # noqa: ARG002  timm's models take it
    ) -> dict[str, str | list[tuple[str, tuple[int] | None]]]:
        """Return patterns that assign parameters to layers, in timm's format.

        The stem is a layer, and each block is one. `coarse` has no effect.
        """
        blocks = [(r"^blocks\.(\d+)", None), (r"^norm|^pool", (99999,))]
        return {"stem": r"^stem|^class_token|^positions", "blocks": blocks}

    def no_weight_decay(self) -> set[str]:
        """Return the names of parameters without weight decay, as in timm's ViTs."""
        return {"class_token", "positions"}


@BACKBONES.register
def vit_lite_7_4(
    image_size: int, *, drop_path: Rate = 0.0, attention_dropout: Rate = 0.0
) -> CompactTransformer:
    """ViT-Lite-7/4: 3.74 million parameters with 100 classes (Hassani et al. 2021).

    It is a ViT of 7 blocks on patches of 4 px. The picture's side must be a multiple of 4.

    Args:
        drop_path: Probability of stochastic depth in the last block. In training, the block's attention and
            its MLP are each skipped for a picture with this probability. It grows linearly over the blocks,
            from 0 in the first. The paper uses 0.1.
        attention_dropout: Share of the attention weights that training sets to 0. The paper uses 0.1.

    Raises:
        ConfigError: If image_size is not a multiple of 4.
    """
    if image_size % 4:
        message = f"vit_lite_7_4 cuts patches of 4 px, and {image_size} is not a multiple of 4"
        raise ConfigError(message, ("data", "image_size"))
    stem = nn.Conv2d(3, FEATURES, 4, stride=4)
    return CompactTransformer(stem, image_size // 4, None, drop_path, attention_dropout)


@BACKBONES.register
def cct_7_3x1(image_size: int, *, drop_path: Rate = 0.0, attention_dropout: Rate = 0.0) -> CompactTransformer:
    """CCT-7/3x1: 3.78 million parameters with 100 classes (Hassani et al. 2021).

    It is a transformer of 7 blocks. A 3x3 convolution, ReLU and max pooling of stride 2 make its tokens: 256
    tokens for a picture of 32 px. The features are a weighted mean of the tokens after the last block. Each
    token's weight comes from a learnt score.

    Args:
        drop_path: Probability of stochastic depth in the last block. In training, the block's attention and
            its MLP are each skipped for a picture with this probability. It grows linearly over the blocks,
            from 0 in the first. The paper uses 0.1.
        attention_dropout: Share of the attention weights that training sets to 0. The paper uses 0.1.
    """
    stem = nn.Sequential(
        nn.Conv2d(3, FEATURES, 3, padding=1, bias=False), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1)
    )
    pool = SequencePool(FEATURES)
    return CompactTransformer(stem, (image_size + 1) // 2, pool, drop_path, attention_dropout)
