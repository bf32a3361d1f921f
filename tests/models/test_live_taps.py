import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cifarlab.models.backbones import timm_backbone
from cifarlab.models.cpu_convolutions.live_taps import LiveConv2d, use_live_taps


@given(
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(1, 3),
    st.sampled_from([1, 2]),
    st.booleans(),
    st.booleans(),
    st.integers(0, 2**31),
)
@settings(max_examples=80, deadline=None)
def test_values_and_gradients_are_conv2ds(channels, height, width, stride, bias, channels_last, seed):
    torch.manual_seed(seed)
    conv = nn.Conv2d(channels, 5, 3, stride, 1, bias=bias).double()
    images = torch.randn(3, channels, height, width).double()
    if channels_last:
        conv, images = (
            conv.to(memory_format=torch.channels_last),
            images.to(memory_format=torch.channels_last),
        )
    live = nn.Sequential(copy.deepcopy(conv))
    assert use_live_taps(live) == 1
    results = []
    for module in (conv, live):
        seen = images.clone().requires_grad_()
        output = module(seen)
        gradients = torch.autograd.grad(output.square().sum(), [seen, *module.parameters()])
        results.append((output, *gradients))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [32, 64])
def test_a_resnets_features_and_gradients_stay(size):
    backbone = timm_backbone("resnet18", size).double()
    live = copy.deepcopy(backbone)
    assert use_live_taps(live) == 16
    assert list(live.state_dict()) == list(backbone.state_dict())
    images = torch.randn(4, 3, size, size).double()
    outputs = [module(images) for module in (backbone, live)]
    torch.testing.assert_close(*outputs, rtol=1e-9, atol=1e-9)
    for output in outputs:
        output.square().sum().backward()
    for ours, theirs in zip(live.parameters(), backbone.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-7, atol=1e-9)


def test_what_sees_only_padding_gets_a_zero_gradient_and_so_its_weight_decay():
    conv = LiveConv2d(2, 2, 3, padding=1)
    conv(torch.randn(2, 2, 1, 1)).sum().backward()
    assert conv.weight.grad is not None
    dead = conv.weight.grad.clone()
    dead[:, :, 1, 1] = 0
    assert (dead == 0).all()
    assert (conv.weight.grad[:, :, 1, 1] != 0).all()


def test_autocast_is_heeded():
    conv = LiveConv2d(4, 4, 3, padding=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert conv(torch.randn(2, 4, 2, 2)).dtype == torch.bfloat16


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(4, 4, 3),
        nn.Conv2d(4, 4, 1),
        nn.Conv2d(4, 4, 3, padding=1, groups=2),
        nn.Conv2d(4, 4, 5, padding=2),
        nn.Conv2d(4, 4, 3, padding=2, dilation=2),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(4, 4, 3, 3, padding=1),
    ],
)
def test_other_convolutions_are_left_alone(conv):
    assert use_live_taps(conv) == 0
    assert type(conv) is nn.Conv2d
