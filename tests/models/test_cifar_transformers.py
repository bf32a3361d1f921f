"""ViT-Lite and CCT: parameter counts as published, functions as timm's and torch's with the same weights."""

from typing import Any

import pytest
import torch
from timm.models import group_parameters
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from cifarlab.core.errors import ConfigError
from cifarlab.core.registries import BACKBONES
from cifarlab.models.cifar.transformers import SequencePool
from cifarlab.models.layers import hidden_matrices, layer_depths

NAMES = ("vit_lite_7_4", "cct_7_3x1")


def built(name: str, size: int = 32, **options: float) -> Any:
    torch.manual_seed(0)
    return BACKBONES.spec({"name": name, **options}).build(size)


# "# Params" of the authors' README (SHI-Labs/Compact-Transformers), which are those with 10 classes.
@pytest.mark.parametrize(("name", "millions"), [("vit_lite_7_4", 3.717), ("cct_7_3x1", 3.760)])
def test_parameters_as_published(name: str, millions: float):
    backbone = built(name)
    count = sum(p.numel() for p in backbone.parameters()) + backbone.num_features * 10 + 10
    assert round(count / 1e6, 3) == millions


def test_vit_lite_is_timms_vision_transformer():
    theirs = VisionTransformer(
        img_size=32, patch_size=4, embed_dim=256, depth=7, num_heads=4, mlp_ratio=2, qkv_bias=False,
        num_classes=0,
    )  # fmt: skip
    ours = built("vit_lite_7_4")
    names = {"cls_token": "class_token", "pos_embed": "positions", "patch_embed.proj": "stem"}

    def rename(key: str) -> str:
        for old, new in names.items():
            key = key.replace(old, new)
        return key

    state = {rename(key): torch.randn_like(value) * 0.05 for key, value in theirs.state_dict().items()}
    theirs.load_state_dict(dict(zip(theirs.state_dict(), state.values(), strict=True)))
    ours.load_state_dict(state)
    images = torch.randn(2, 3, 32, 32).double()
    torch.testing.assert_close(ours.double()(images), theirs.double()(images))


def test_cct_is_torchs_encoder_on_a_convolution():
    ours = built("cct_7_3x1").double()
    for norm in ours.modules():
        if isinstance(norm, nn.LayerNorm):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias)
    images = torch.randn(2, 3, 32, 32).double()
    conv = ours.stem[0]
    maps = nn.functional.conv2d(images, conv.weight, padding=1).relu()
    # The largest of each 3x3 pixels, every other one; the padding is below all of them.
    padded = nn.functional.pad(maps, (1, 1, 1, 1))
    maps = padded.unfold(2, 3, 2).unfold(3, 3, 2).amax((-2, -1))
    assert maps.shape == (2, 256, 16, 16)
    tokens = maps.reshape(2, 256, -1).mT + ours.positions
    for block in ours.blocks:
        layer: Any = nn.TransformerEncoderLayer(
            256, 4, 512, 0, "gelu", layer_norm_eps=1e-6, batch_first=True, norm_first=True
        ).double()
        state = {
            "self_attn.in_proj_weight": block.attn.qkv.weight,
            "self_attn.in_proj_bias": torch.zeros(768),
            **{f"self_attn.out_proj.{key}": value for key, value in block.attn.proj.state_dict().items()},
            **{f"linear1.{key}": value for key, value in block.mlp.fc1.state_dict().items()},
            **{f"linear2.{key}": value for key, value in block.mlp.fc2.state_dict().items()},
            **{f"norm1.{key}": value for key, value in block.norm1.state_dict().items()},
            **{f"norm2.{key}": value for key, value in block.norm2.state_dict().items()},
        }
        layer.load_state_dict(state)
        tokens = layer(tokens)
    tokens = nn.functional.layer_norm(tokens, (256,), ours.norm.weight, ours.norm.bias, eps=1e-6)
    # Pooling is attention of one query, the score's weights, on the tokens.
    query = ours.pool.score.weight.expand(2, 1, 256)
    pooled = nn.functional.scaled_dot_product_attention(query, tokens, tokens, scale=1)
    torch.testing.assert_close(ours(images), pooled[:, 0])


def test_sequence_pool_of_equal_scores_is_the_mean():
    pool = SequencePool(4)
    nn.init.zeros_(pool.score.weight)
    tokens = torch.randn(2, 5, 4)
    torch.testing.assert_close(pool(tokens), tokens.mean(1))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("option", ["drop_path", "attention_dropout"])
def test_options_act_in_training_only(name: str, option: str):
    plain, ours = built(name), built(name, **{option: 0.5})
    ours.load_state_dict(plain.state_dict())
    images = torch.randn(2, 3, 32, 32)
    assert not torch.equal(ours(images), ours(images))
    torch.testing.assert_close(ours.eval()(images), plain.eval()(images))


@pytest.mark.parametrize("name", NAMES)
def test_stochastic_depth_grows_linearly_from_none(name: str):
    backbone = built(name, drop_path=0.3)
    rates = [getattr(half, "drop_prob", 0.0) for block in backbone.blocks for half in (
        block.drop_path1, block.drop_path2)]  # fmt: skip
    assert rates == pytest.approx([0.05 * index for index in range(7) for _ in range(2)])


@pytest.mark.parametrize("name", NAMES)
def test_layers(name: str):
    backbone = built(name)
    layer: Any = group_parameters(backbone, backbone.group_matcher(), reverse=True)
    assert set(layer.values()) == set(range(8))
    assert {layer[key] for key in layer if key.startswith(("stem", "class_token", "positions"))} == {0}
    depths = layer_depths(backbone)
    assert (depths["positions"], depths["norm.weight"], depths["blocks.0.mlp.fc1.weight"]) == (8, 1, 7)
    assert "stem.weight" not in hidden_matrices(backbone)
    assert "stem.0.weight" not in hidden_matrices(backbone)
    assert backbone.no_weight_decay() <= {"class_token", "positions"}


def test_sizes():
    assert built("cct_7_3x1", 33)(torch.zeros(1, 3, 33, 33)).shape == (1, 256)
    assert built("vit_lite_7_4", 64)(torch.zeros(1, 3, 64, 64)).shape == (1, 256)
    with pytest.raises(ConfigError, match="4 px, and 33 is not a multiple") as caught:
        built("vit_lite_7_4", 33)
    assert caught.value.path == ("data", "image_size")
