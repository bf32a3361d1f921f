"""Backbones: parts of timm at 32 px, stems, sizes, parameter counts."""

import subprocess
import sys
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F

from cifarlab.config import ModelConfig
from cifarlab.core.errors import ConfigError
from cifarlab.core.registries import BACKBONES
from cifarlab.models.classifier import build_classifier


def parameters(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def test_counts_of_the_tutorials_baseline():
    torch.manual_seed(0)
    config = ModelConfig.model_validate({"backbone": "resnet18", "head": "linear"})
    model = build_classifier(config, 32, 100)
    assert parameters(model) == 11_227_812
    for name, parameter in model.named_parameters():
        if name.endswith("bn2.weight"):  # 0 at first, so that each block begins as the identity
            torch.nn.init.ones_(parameter)
    F.cross_entropy(model(torch.rand(8, 3, 32, 32)).logits, torch.arange(8)).backward()
    # At 32 px layer4 sees one pixel: of its 3x3 kernels only the taps that fall on it have work to do.
    kernels = [p.grad for p in model.parameters() if p.grad is not None and p.ndim == 4]
    idle = [int((kernel == 0).all(1).all(0).sum()) * kernel[..., 0, 0].numel() for kernel in kernels]
    assert sum(idle) == 6_946_816


def test_cifar_stem():
    stemmed = BACKBONES.spec({"name": "resnet18", "stem": "cifar"}).build(32)
    assert parameters(stemmed) == 11_227_812 - 51_300 - 64 * 3 * (49 - 9)
    maps = stemmed.forward_features(torch.zeros(1, 3, 32, 32))
    assert maps.shape == (1, 512, 4, 4)
    assert stemmed.conv1.weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.1)


@pytest.mark.parametrize("name", ["test_vit", "mobilenetv3_small_100", "resnet26d"])
def test_cifar_stem_is_for_plain_resnets(name: str):
    with pytest.raises(ConfigError, match="a CIFAR stem is for ResNets") as caught:
        BACKBONES.spec({"name": name, "stem": "cifar"}).build(32)
    assert caught.value.path == ("model", "backbone", "stem")


@pytest.mark.parametrize(
    ("name", "size", "words"),
    [
        ("convnext_atto", 16, "cannot take pictures of 16 px"),
        ("convnext_atto", 16, "use 224, its own"),
        ("test_vit", 40, "patches of 16 px, and 40 is not a multiple of it; use 32 or 48"),
        ("test_vit", 8, "patches of 16 px, and 8 is not a multiple of it; use 16"),
        ("swin_tiny_patch4_window7_224", 30, "patches of 4 px, and 30 is not a multiple of it; use 28 or 32"),
        ("maxvit_rmlp_pico_rw_256", 100, r"must be divisible by window.*; use 256, its own"),
    ],
)
def test_a_size_that_does_not_fit(name: str, size: int, words: str):
    with pytest.raises(ConfigError, match=words) as caught:
        BACKBONES.spec(name).build(size)
    assert caught.value.path == ("data", "image_size")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "stages", "pools_the_last"),
    [
        ("resnet18", ("act1", "layer1", "layer2", "layer3", "layer4"), True),
        ("resnet50", ("act1", "layer1", "layer2", "layer3", "layer4"), True),
        ("mobilenetv2_100", ("blocks.0", "blocks.1", "blocks.2", "blocks.4", "blocks.6"), False),
        ("convnext_atto", ("stages.0", "stages.1", "stages.2", "stages.3"), False),
        ("tresnet_m", ("body.layer1", "body.layer2", "body.layer3", "body.layer4"), True),
    ],
)
def test_stages_of_timm(name: str, stages: tuple[str, ...], pools_the_last: bool):
    torch.manual_seed(0)
    config = ModelConfig.model_validate({"backbone": name, "head": "linear"})
    model: Any = build_classifier(config, 64, 10).eval()
    assert model.backbone.stage_names == stages
    output = model(torch.rand(2, 3, 64, 64), stages=True)
    channels = {info["module"]: info["num_chs"] for info in model.backbone.feature_info}
    assert [maps.shape[1] for maps in output.stages] == [channels[stage] for stage in stages]
    sides = [maps.shape[2] for maps in output.stages]
    assert all(maps.ndim == 4 for maps in output.stages)
    assert sides == sorted(sides, reverse=True)
    last = output.stages[-1].mean((2, 3))
    assert (last.shape == output.embedding.shape and torch.allclose(last, output.embedding)) == pools_the_last


def test_stages_of_vgg_are_maps_of_its_features():
    backbone = BACKBONES.spec("vgg11").build(32)
    assert len(backbone.stage_names) >= 5
    assert all(name.startswith("features.") for name in backbone.stage_names)


# Tokens; maps that end in the channels, here as many as the map is wide; a name that is no submodule; lists.
@pytest.mark.parametrize(
    ("name", "size"),
    [("test_vit", 32), ("mambaout_femto", 192), ("twins_svt_small", 224), ("crossvit_9_240", 240)],
)
def test_what_is_no_map_is_no_stage(name: str, size: int):
    assert BACKBONES.spec(name).build(size).stage_names == ()


def test_names_of_timm_are_known():
    assert BACKBONES.spec("resnet18.a1_in1k").name == "resnet18.a1_in1k"
    for wrong, right in (("resnet_18", "resnet18"), ("resnet18.a1_in2k", "resnet18.a1_in1k")):
        with pytest.raises(ConfigError, match=f"did you mean {right}"):
            BACKBONES.spec(wrong)
    with pytest.raises(ConfigError, match="did you mean stem"):
        BACKBONES.spec({"name": "resnet18", "stemm": "cifar"})


def test_importing_the_module_leaves_timm_alone():
    code = (
        "import sys, cifarlab.models.backbones; sys.exit(bool({'timm', 'torchvision'} & sys.modules.keys()))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# Of each family that is fine-tuned the smallest member.
FAMILIES = (
    "vit_tiny_patch16_224",
    "deit_tiny_patch16_224",
    "swin_tiny_patch4_window7_224",
    "tf_efficientnetv2_b0",
    "resnetv2_50x1_bit",
    "convnext_atto",
)


def built(name: str, size: int, **options: object) -> Any:
    torch.manual_seed(0)
    return BACKBONES.spec({"name": name, **options}).build(size)


@pytest.mark.parametrize(
    ("name", "size"),
    [*((name, size) for name in FAMILIES for size in (64, 224)), ("vit_tiny_patch16_224", 384)],
)
def test_families_to_fine_tune_at_their_sizes(name: str, size: int):
    backbone = built(name, size).eval()
    size_given = {"img_size": size} if "patch" in name else {}
    theirs = timm.create_model(name, num_classes=0, **size_given).eval()
    theirs.load_state_dict(backbone.state_dict())
    images = torch.randn(1, 3, size, size)
    with torch.no_grad():
        features = backbone(images)
        assert features.shape == (1, backbone.num_features)
        torch.testing.assert_close(features, theirs(images))


@pytest.mark.parametrize("name", [*FAMILIES, "resnet18"])
def test_stochastic_depth_is_for_training(name: str):
    plain, ours = built(name, 32), built(name, 32, drop_path=0.5)
    for key, parameter in plain.named_parameters():
        if parameter.ndim == 1 and key.endswith(("weight", "gamma")):
            torch.nn.init.ones_(parameter)  # so that no block begins as next to nothing
    ours.load_state_dict(plain.state_dict())
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(ours.eval()(images), plain.eval()(images))
        assert not torch.allclose(ours.train()(images), ours(images), rtol=1e-2)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("vgg11", {"drop_path": 0.1}, "vgg11 has no stochastic depth"),
        ("hrnet_w18_small", {"drop_path": 0.1}, "hrnet_w18_small has no stochastic depth"),
        ("resnet18", {"patch": 2}, "resnet18 has no adjustable patch size"),
        ("convnext_atto_ols", {"patch": 2}, "convnext_atto_ols has no adjustable patch size"),
    ],
)
def test_an_option_that_the_model_has_not_got(name: str, options: dict[str, float], words: str):
    with pytest.raises(ConfigError, match=words) as caught:
        built(name, 32, **options)
    assert caught.value.path == ("model", "backbone", *options)
    assert "\n" not in str(caught.value)


def test_small_patches_keep_maps_large():
    backbone = built("convnext_atto", 32, patch=2)
    assert backbone.stem[0].weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert not backbone.stem[0].bias.any()
    # As timm's own on the picture with each pixel four times, where each of a 4x4 kernel's weights lies
    # four times, quartered.
    theirs = timm.create_model("convnext_atto", num_classes=0)
    state = backbone.state_dict()
    state["stem.0.weight"] = state["stem.0.weight"].repeat_interleave(2, 2).repeat_interleave(2, 3) / 4
    theirs.load_state_dict(state)
    images = torch.randn(2, 3, 32, 32)
    doubled = F.interpolate(images, scale_factor=2)
    torch.testing.assert_close(backbone(images), theirs(doubled))
    config = ModelConfig.model_validate({"backbone": {"name": "convnext_atto", "patch": 2}, "head": "linear"})
    maps = build_classifier(config, 32, 10)(torch.rand(1, 3, 32, 32), stages=True).stages
    assert [m.shape[-1] for m in maps] == [16, 8, 4, 2]
    assert built("vit_tiny_patch16_224", 32, patch=4).pos_embed.shape == (1, 65, 192)
