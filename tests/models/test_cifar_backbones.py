"""The CIFAR networks: parameter counts as published, blocks as torchvision's and timm's, stages, layers."""

from collections.abc import Callable
from functools import cache
from itertools import pairwise
from typing import Any, NamedTuple

import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision.models as tv
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers.create_conv2d import create_conv2d
from timm.layers.norm_act import BatchNormAct2d
from timm.models import group_parameters
from timm.models.resnetv2 import ResNetV2
from timm.optim import param_groups_layer_decay  # pyright: ignore[reportPrivateImportUsage]
from torch import Tensor, nn
from torchvision.models.vgg import make_layers

from cifarlab.core.errors import ConfigError
from cifarlab.core.registries import BACKBONES
from cifarlab.models.cifar import convnets as convnets
from cifarlab.models.cifar import pyramids as pyramids
from cifarlab.models.cifar import resnets as resnets
from cifarlab.models.layers import layer_depths


class Published(NamedTuple):
    """A network with 100 classes, as RepDistiller's and mdistiller's code builds it (the two agree).

    PyramidNets: as pytorchcv's tables give them. The authors' code has the same layers, though their table
    says 3.8 and 28.3 million.
    """

    parameters: int
    layers: int  # the stem and the blocks
    stages: tuple[tuple[int, int], ...]  # channels and side, for pictures of 32 px


NARROW = ((16, 32), (32, 16), (64, 8))
WIDE = ((64, 32), (128, 16), (256, 8))
TWICE = ((32, 32), (64, 16), (128, 8))
VGG = ((64, 32), (128, 16), (256, 8), (512, 4), (512, 4))
SHUFFLE = ((116, 16), (232, 8), (464, 4), (1024, 4))
MOBILE = ((12, 16), (16, 8), (48, 4), (160, 2), (1280, 2))
NETWORKS = {
    "resnet8x4": Published(1_233_540, 4, WIDE),
    "resnet20": Published(278_324, 10, NARROW),
    "resnet32": Published(472_756, 16, NARROW),
    "resnet32x4": Published(7_433_860, 16, WIDE),
    "resnet56": Published(861_620, 28, NARROW),
    "resnet110": Published(1_736_564, 55, NARROW),
    "wrn_16_2": Published(703_284, 7, TWICE),
    "wrn_40_1": Published(569_780, 19, NARROW),
    "wrn_40_2": Published(2_255_156, 19, TWICE),
    "wrn_28_10": Published(36_536_884, 13, ((160, 32), (320, 16), (640, 8))),
    "cifar_vgg8": Published(3_965_028, 5, VGG),  # a VGG has no stem: each convolution is a block
    "cifar_vgg13": Published(9_462_180, 10, VGG),
    "cifar_shufflenet_v2": Published(1_355_528, 17, SHUFFLE),
    "cifar_mobilenet_v2": Published(812_836, 18, MOBILE),
    "pyramidnet110_a84": Published(3_913_536, 55, ((44, 32), (72, 16), (100, 8))),
    "pyramidnet110_a270": Published(28_511_307, 55, ((106, 32), (196, 16), (286, 8))),
}
# See test_cifar_transformers.py and test_speed_resnets.py.
TESTED_ELSEWHERE = ("cct_7_3x1", "vit_lite_7_4", "speed_resnet")
LARGE = ("wrn_28_10", "resnet32x4", "resnet110", "pyramidnet110_a270")
SMALL = [name for name in NETWORKS if name not in LARGE]


@cache
def on_meta(name: str, size: int = 32) -> Any:
    """The network without memory for its weights: shapes are worked out, numbers are not."""
    with torch.device("meta"):
        return BACKBONES.spec(name).build(size)


def computed(name: str) -> Any:
    torch.manual_seed(0)
    return BACKBONES.spec(name).build(32)


def stages_of(backbone: Any, images: Tensor) -> tuple[Tensor, list[Tensor]]:
    """What the backbone gives, and what its stages give."""
    maps: list[Tensor] = []
    hooks = [
        backbone.get_submodule(name).register_forward_hook(lambda _, __, output: maps.append(output))
        for name in backbone.stage_names
    ]
    features = backbone(images)
    for hook in hooks:
        hook.remove()
    return features, maps


@pytest.mark.parametrize("name", NETWORKS)
def test_parameters_as_published(name: str):
    backbone = on_meta(name)
    head = backbone.num_features * 100 + 100
    assert sum(p.numel() for p in backbone.parameters()) + head == NETWORKS[name].parameters


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("size", [32, 64])
def test_shapes_and_stages(name: str, size: int):
    backbone = on_meta(name, size)
    features, maps = stages_of(backbone, torch.zeros(2, 3, size, size, device="meta"))
    assert features.shape == (2, backbone.num_features)
    published = [
        (2, channels, side * size // 32, side * size // 32) for channels, side in NETWORKS[name].stages
    ]
    if "vgg" in name and size == 64:  # the fourth pooling
        published[-1] = (2, 512, 4, 4)
    assert [m.shape for m in maps] == published


@pytest.mark.parametrize("name", NETWORKS)
def test_any_size_from_32_px(name: str):
    backbone = on_meta(name)
    for size in (33, 63, 224):
        features = backbone(torch.zeros(1, 3, size, size, device="meta"))
        assert features.shape == (1, backbone.num_features)


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("resnet20", 4),
        ("wrn_16_2", 4),
        ("cifar_vgg8", 8),
        ("cifar_shufflenet_v2", 8),
        ("cifar_mobilenet_v2", 16),
    ],
)
def test_a_picture_too_small_for_the_last_map(name: str, least: int):
    assert on_meta(name, least)(torch.zeros(2, 3, least, least, device="meta")).ndim == 2
    with pytest.raises(
        ConfigError, match=f"takes pictures of {least} px or more, not of {least - 1}"
    ) as caught:
        on_meta(name, least - 1)
    assert caught.value.path == ("data", "image_size")


@pytest.mark.parametrize("name", SMALL)
def test_gradients_and_what_is_pooled(name: str):
    backbone = computed(name)
    backbone(torch.randn(4, 3, 32, 32)).square().mean().backward()
    for key, parameter in backbone.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.any(), key
    features, maps = stages_of(backbone.eval(), torch.randn(2, 3, 32, 32))
    torch.testing.assert_close(maps[-1].mean((2, 3)), features)


@pytest.mark.parametrize("name", NETWORKS)
def test_layers(name: str):
    backbone = on_meta(name)
    parameters = [key for key, _ in backbone.named_parameters()]
    layer: Any = group_parameters(backbone, backbone.group_matcher(), reverse=True)
    # In the order of the forward, none left over: what no pattern matches would be a layer of its own.
    assert all(0 <= layer[b] - layer[a] <= 1 for a, b in pairwise(parameters))
    assert layer[parameters[-1]] + 1 == len(set(layer.values())) == NETWORKS[name].layers
    depths = layer_depths(backbone)
    assert (max(depths.values()), min(depths.values())) == (NETWORKS[name].layers, 1)
    coarse = group_parameters(backbone, backbone.group_matcher(coarse=True))
    assert len(coarse) == len(backbone.stages) + any(True for _ in backbone.stem.parameters())


def test_layerwise_learning_rates():
    backbone = on_meta("cifar_mobilenet_v2")
    groups: list[dict[str, Any]] = param_groups_layer_decay(backbone, layer_decay=0.5)
    scale = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    assert len(scale) == len([*backbone.parameters()])
    assert scale[id(backbone.stem[0].weight)] == 0.5**17
    assert scale[id(backbone.stages[3][-2].residual[0][0].weight)] == 0.5
    assert scale[id(backbone.last[0].weight)] == 1


def test_no_name_shadows_timms():
    own = [name for name in BACKBONES if BACKBONES[name].call.__module__.startswith("cifarlab.")]
    assert sorted(own) == sorted([*NETWORKS, *TESTED_ELSEWHERE])
    assert not [name for name in own if timm.is_model(name)]


# Networks that we did not write, with the same weights


def with_weights_of(ours: nn.Module, theirs: nn.Module, rename: Callable[[str], str] | None = None) -> None:
    """Norms as after training, so that a missing or misplaced one shows; then their weights into ours.

    By order; where that differs, by name.
    """
    for norm in theirs.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, std=0.2)
            assert norm.running_mean is not None
            assert norm.running_var is not None
            nn.init.normal_(norm.running_mean, std=0.2)
            nn.init.uniform_(norm.running_var, 0.5, 1.5)
    state = theirs.state_dict()
    names = [rename(key) for key in state] if rename else [*ours.state_dict()]
    ours.load_state_dict(dict(zip(names, state.values(), strict=True)))


def assert_same(ours: nn.Module, theirs: nn.Module, images: Tensor) -> None:
    for training in (True, False):
        torch.testing.assert_close(
            ours.double().train(training)(images.double()), theirs.double().train(training)(images.double())
        )


def mean_of_map() -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.mark.parametrize(
    ("name", "widths", "blocks"), [("resnet20", (16, 16, 32, 64), 3), ("resnet8x4", (32, 64, 128, 256), 1)]
)
def test_resnets_are_torchvisions_blocks(name: str, widths: tuple[int, ...], blocks: int):
    def block(inputs: int, outputs: int, stride: int) -> nn.Module:
        conv = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        shortcut = None if inputs == outputs else nn.Sequential(conv, nn.BatchNorm2d(outputs))
        return tv.resnet.BasicBlock(inputs, outputs, stride, shortcut)

    torch.manual_seed(0)
    layers = [nn.Conv2d(3, widths[0], 3, padding=1, bias=False), nn.BatchNorm2d(widths[0]), nn.ReLU()]
    for index, (inputs, outputs) in enumerate(pairwise(widths)):
        layers += [
            block(inputs, outputs, 1 + (index > 0)),
            *(block(outputs, outputs, 1) for _ in range(blocks - 1)),
        ]
    theirs, ours = nn.Sequential(*layers, mean_of_map()), computed(name)
    with_weights_of(ours, theirs)
    assert_same(ours, theirs, torch.randn(2, 3, 32, 32))


def test_wide_resnet_is_timms_preactivation_network():
    torch.manual_seed(0)
    theirs = ResNetV2(
        (2, 2, 2), (32, 64, 128), num_classes=0, stem_chs=16, basic=True, bottle_ratio=1.0,
        norm_layer=BatchNormAct2d, conv_layer=create_conv2d,
    )  # fmt: skip
    theirs.stem = nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False))
    names = {
        "stem.0": "stem", "blocks.": "", "norm1": "norm.0", "conv1": "residual.0", "norm2": "residual.1",
        "conv2": "residual.4", "downsample.conv": "shortcut",
    }  # fmt: skip

    def rename(key: str) -> str:
        for old, new in names.items():
            key = key.replace(old, new)
        return key.replace("norm.", "last.0.") if key.startswith("norm.") else key

    ours = computed("wrn_16_2")
    with_weights_of(ours, theirs, rename)
    assert_same(ours, theirs, torch.randn(2, 3, 32, 32))


@pytest.mark.parametrize(("outputs", "stride", "side"), [(8, 1, 8), (10, 1, 8), (9, 2, 8), (9, 2, 7)])
def test_pyramid_block_is_torchvisions_between_a_norm_and_its_relu(outputs: int, stride: int, side: int):
    torch.manual_seed(0)
    images = torch.randn(2, 8, side, side).double()

    def shortcut(_: Tensor) -> Tensor:
        maps = F.avg_pool2d(images, stride, ceil_mode=True)
        return torch.cat([maps, maps.new_zeros(2, outputs - 8, *maps.shape[2:])], 1)

    norm, block = nn.BatchNorm2d(8), tv.resnet.BasicBlock(8, outputs, stride)
    ours = pyramids.PyramidBlock(8, outputs, stride, 0.0)
    with_weights_of(ours, nn.Sequential(norm, block))
    block.downsample = shortcut  # pyright: ignore[reportAttributeAccessIssue]
    theirs = nn.Sequential(norm, block).double()
    for training in (True, False):
        torch.testing.assert_close(
            ours.double().train(training)(images).relu(), theirs.train(training)(images)
        )


@pytest.mark.parametrize("size", [32, 64])
def test_vgg_is_torchvisions_features(size: int):
    torch.manual_seed(0)
    plan: list[Any] = [64, 64, "M", 128, 128, "M", 256, 256, "M", 512, 512, "M", 512, 512]
    if size == 32:
        del plan[11]
    theirs, ours = nn.Sequential(make_layers(plan, batch_norm=True), mean_of_map()), computed("cifar_vgg13")
    with_weights_of(ours, theirs)
    assert_same(ours, theirs, torch.randn(2, 3, size, size))


def test_shufflenet_is_torchvisions_but_for_its_stem():
    torch.manual_seed(0)
    theirs: Any = tv.shufflenet_v2_x1_0()
    theirs.conv1[0], theirs.maxpool, theirs.fc = nn.Conv2d(3, 24, 1, bias=False), nn.Identity(), nn.Identity()
    ours = computed("cifar_shufflenet_v2")
    with_weights_of(ours, theirs)
    assert_same(ours, theirs, torch.randn(2, 3, 32, 32))


@pytest.mark.parametrize(("outputs", "stride"), [(8, 1), (8, 2), (16, 1)])
def test_inverted_residual_is_torchvisions_below_6(outputs: int, stride: int):
    torch.manual_seed(0)
    theirs = tv.mobilenetv2.InvertedResidual(8, outputs, stride, 6)
    ours = convnets.InvertedResidual(8, outputs, stride, 6)
    with_weights_of(ours, theirs)
    assert_same(ours, theirs, torch.randn(2, 8, 8, 8))


# Options and weights


@pytest.mark.parametrize("name", ["resnet8x4", "wrn_16_2", "cifar_vgg8", "cifar_mobilenet_v2"])
def test_initial_weights(name: str):
    for conv in computed(name).modules():
        if isinstance(conv, nn.Conv2d) and conv.weight.numel() > 1000:
            fan_out = conv.out_channels * conv.kernel_size[0] ** 2
            assert conv.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.15)
            assert conv.bias is None or not conv.bias.any()


def test_dropout_of_wide_resnets():
    backbone = BACKBONES.spec({"name": "wrn_16_2", "dropout": 0.3}).build(32)
    assert [part.p for part in backbone.modules() if isinstance(part, nn.Dropout)] == [0.3] * 6
    block = resnets.PreactivationBlock(4, 4, 1, 0.5)
    images = torch.randn(2, 4, 8, 8)
    assert not torch.equal(block(images), block(images))
    assert torch.equal(block.eval()(images), block(images))
    with pytest.raises(ConfigError, match="less than 1"):
        BACKBONES.spec({"name": "wrn_16_2", "dropout": 1})


@settings(deadline=None, max_examples=20)
@given(disturbed=st.floats(0.05, 0.95), seed=st.integers(0, 2**32))
def test_shake_drop_multiplies_each_picture_by_one_number(disturbed: float, seed: int):
    torch.manual_seed(seed)
    count = 20_000
    maps = torch.ones(count, 1, 1, 2, requires_grad=True)
    layer = pyramids.ShakeDrop(disturbed)
    output = layer(maps)
    output.sum().backward()
    assert maps.grad is not None
    forward, backward = output[:, 0, 0, 0], maps.grad[:, 0, 0, 0]
    assert torch.equal(output, forward.view(-1, 1, 1, 1).expand_as(maps))
    intact = forward == 1
    # Five standard errors: alpha is uniform in [-1, 1], beta in [0, 1], independent of each other.
    close = 5 / count**0.5
    assert intact.float().mean().item() == pytest.approx(1 - disturbed, abs=close)
    assert (backward[intact] == 1).all()
    assert (forward[~intact].abs() <= 1).all()
    few = 5 / max(1, int((~intact).sum())) ** 0.5
    assert forward[~intact].mean().item() == pytest.approx(0, abs=few)
    assert forward[~intact].square().mean().item() == pytest.approx(1 / 3, abs=few)
    assert backward[~intact].mean().item() == pytest.approx(1 / 2, abs=few)
    assert (backward[~intact] * forward[~intact]).mean().item() == pytest.approx(0, abs=few)
    # Evaluation is the exact mean of what training does.
    assert forward.mean().item() == pytest.approx(1 - disturbed, abs=close)
    torch.testing.assert_close(layer.eval()(maps), (1 - disturbed) * maps)


def test_shake_drop_grows_linearly_to_its_share():
    with torch.device("meta"):
        backbone = BACKBONES.spec({"name": "pyramidnet110_a84", "shake_drop": 0.5}).build(32)
    shares = [part.disturbed for part in backbone.modules() if isinstance(part, pyramids.ShakeDrop)]
    assert shares == pytest.approx([0.5 * index / 54 for index in range(1, 55)])
