"""What every backbone does: shapes, precision, gradients, determinism; and that its randomness resumes."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from cifarlab.core.registries import BACKBONES
from tests.tiny import logged, train_tiny
from tests.training.test_loop import assert_same_run

LIGHT = [
    "resnet18",
    "resnet50",
    "vit_tiny_patch16_224",
    "convnext_atto",
    "mobilenetv3_small_100",
    "test_efficientnet",
]
# Where bfloat16 is emulated, these take up to a minute each at 32 px.
SIDES = {
    "wrn_28_10": 8,
    "pyramidnet110_a270": 8,
    "pyramidnet110_a84": 16,
    "resnet32x4": 16,
    "wrn_40_2": 16,
    "cct_7_3x1": 16,
    "resnet110": 16,
}
# With their regularisers on, each in a form that takes 8 px.
RANDOM: dict[str, dict[str, Any]] = {
    "pyramidnet": {"name": "pyramidnet110_a84", "shake_drop": 0.5},
    "vit_lite": {"name": "vit_lite_7_4", "drop_path": 0.3, "attention_dropout": 0.3},
    "cct": {"name": "cct_7_3x1", "drop_path": 0.3, "attention_dropout": 0.3},
    "wide_resnet": {"name": "wrn_16_2", "dropout": 0.3},
    "timm_resnet": {"name": "test_resnet", "drop_path": 0.3},
    "timm_convnext": {"name": "test_convnext", "drop_path": 0.3, "patch": 1},
    "timm_vit": {"name": "test_vit", "drop_path": 0.3, "patch": 2},
}


def built(spec: str | dict[str, Any], size: int = 32) -> Any:
    torch.manual_seed(0)
    return BACKBONES.spec(spec).build(size)


@pytest.mark.parametrize("name", [*BACKBONES, *LIGHT])
def test_shape_precision_and_gradients(name: str):
    size = SIDES.get(name, 32)
    backbone = built(name, size)
    assert backbone.training
    images = torch.randn(2, 3, size, size)
    with torch.autocast("cpu", torch.bfloat16):
        features = backbone(images)
    assert features.shape == (2, backbone.num_features)
    assert features.dtype in (torch.bfloat16, torch.float32)
    assert features.isfinite().all()
    features.float().square().mean().backward()
    for key, parameter in backbone.named_parameters():
        assert parameter.dtype == torch.float32, key
        assert parameter.grad is None or parameter.grad.isfinite().all(), key
    backbone.eval()
    with torch.no_grad():
        exact = backbone(images)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = backbone(images).float()
    assert torch.equal(exact, backbone(images))
    assert (F.cosine_similarity(exact, rounded) > 0.99).all()
    torch.testing.assert_close(backbone(images[:1]), exact[:1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("spec", RANDOM.values(), ids=RANDOM)
def test_randomness_is_torchs_generators(spec: dict[str, Any]):
    backbone, images = built(spec, 8), torch.randn(8, 3, 8, 8)
    for norm in backbone.modules():
        if isinstance(norm, torch.nn.modules.batchnorm._BatchNorm):
            torch.nn.init.ones_(norm.weight)  # a block may begin as next to nothing
    for key, parameter in backbone.named_parameters():
        if key.endswith("gamma"):
            torch.nn.init.ones_(parameter)

    def seen(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return backbone(images)

    assert torch.equal(seen(1), seen(1))
    assert not torch.allclose(seen(1), seen(2), rtol=1e-2)


@pytest.mark.parametrize("spec", RANDOM.values(), ids=RANDOM)
def test_a_run_resumes_exactly(spec: dict[str, Any], tmp_path, stop_at):
    options = ", ".join(f"{key}: {value}" for key, value in spec.items())
    overrides = (
        "data.dataset={name: synthetic, train: 24, test: 8}", "data.val=8", "data.batch_size=8",
        "data.image_size=8", f"model.backbone={{{options}}}", "model.head={name: linear, dropout: 0.2}",
    )  # fmt: skip
    whole, _ = train_tiny(tmp_path / "whole", *overrides)
    with stop_at(2):  # The first step of the second epoch.
        train_tiny(tmp_path / "halved", *overrides)
    halved, _ = train_tiny(tmp_path / "halved", *overrides)
    assert len(logged(whole)) == 2
    assert_same_run(whole, halved)
