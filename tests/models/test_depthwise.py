"""Depthwise convolutions on CPUs: the function and the gradients are nn.Conv2d's, in both arithmetics."""

import copy

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers.conv2d_same import Conv2dSame
from torch import nn

from cifarlab.models.cpu_convolutions.depthwise import DepthwiseConv2d, DepthwiseConv2dSame, use_depthwise


def results_of(module: nn.Module, images: torch.Tensor, dtype: torch.dtype) -> list[torch.Tensor]:
    """The output and the gradients of a sum that weights each output differently, as float64."""
    seen = images.clone().to(memory_format=torch.channels_last).requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16):
        output = module(seen)
    weights = torch.linspace(-1, 1, output.numel(), dtype=torch.float64).view(output.shape)
    gradients = torch.autograd.grad((output.double() * weights).sum(), [seen, *module.parameters()])
    return [value.double() for value in (output, *gradients)]


@given(
    st.integers(2, 9), st.integers(1, 7), st.integers(1, 3), st.integers(1, 2), st.integers(1, 12),
    st.booleans(), st.booleans(), st.sampled_from([torch.float32, torch.bfloat16]),
    st.sampled_from(["AVX2", "AVX512"]), st.integers(0, 2**31),
)  # fmt: skip
@settings(max_examples=200, deadline=None)
def test_values_and_gradients_are_conv2ds(
    channels, kernel, stride, dilation, size, bias, same, dtype, processor, seed
):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: processor)
        check_values_and_gradients(channels, kernel, stride, dilation, size, bias, same, dtype, seed)


def check_values_and_gradients(channels, kernel, stride, dilation, size, bias, same, dtype, seed):
    torch.manual_seed(seed)
    options = {"stride": stride, "dilation": dilation, "groups": channels, "bias": bias}
    if same:
        conv = Conv2dSame(channels, channels, kernel, **options)
    else:
        conv = nn.Conv2d(channels, channels, kernel, padding=dilation * (kernel // 2), **options)
        size += dilation * kernel
    images = torch.randn(3, channels, size, size)
    ours = nn.Sequential(copy.deepcopy(conv))
    assert use_depthwise(ours) == 1
    assert list(ours.state_dict()) == [f"0.{name}" for name in conv.state_dict()]
    # oneDNN has no double: the reference is not its kernel's.
    found = results_of(ours, images, dtype)
    truth = results_of(conv.double(), images.double(), torch.float32)
    # Eight bits of mantissa, in the factors of sums of up to a few hundred products.
    tolerance = 1e-4 if dtype == torch.float32 else 0.03
    for value, exact in zip(found, truth, strict=True):
        assert value.shape == exact.shape
        assert (value - exact).norm() <= tolerance * exact.norm() + 1e-6


def test_gradients_that_are_not_wanted_are_not_computed():
    conv = DepthwiseConv2d(4, 4, 3, padding=1, groups=4, bias=False)
    conv.weight.requires_grad_(False)
    images = torch.randn(2, 4, 6, 6, requires_grad=True)
    conv(images).sum().backward()
    assert images.grad is not None
    assert conv.weight.grad is None
    images = torch.randn(2, 4, 6, 6)
    conv.weight.requires_grad_(True)
    conv(images).sum().backward()
    assert conv.weight.grad is not None
    assert images.grad is None


def test_other_convolutions_stay():
    others = [
        nn.Conv2d(4, 8, 3),
        nn.Conv2d(4, 8, 3, groups=2),
        nn.Conv2d(4, 8, 3, groups=4),
        nn.Conv2d(1, 1, 3),
        nn.Conv2d(4, 4, 3, groups=4, padding="same"),
        nn.Conv2d(4, 4, 3, groups=4, padding=1, padding_mode="circular"),
    ]
    assert use_depthwise(nn.Sequential(*others)) == 0


@pytest.mark.parametrize(("name", "kinds"), [
    ("tf_efficientnet_lite0", {DepthwiseConv2d, DepthwiseConv2dSame}),
    ("mobilenetv3_small_050", {DepthwiseConv2d}),
    ("convnext_atto", {DepthwiseConv2d}),
])  # fmt: skip
def test_a_network_of_timm_has_them(name, kinds):
    model = timm.create_model(name, num_classes=3).eval()
    ours = copy.deepcopy(model)
    assert use_depthwise(ours) > 5
    assert {type(part) for part in ours.modules() if isinstance(part, DepthwiseConv2d)} == kinds
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(images), model(images), rtol=1e-4, atol=1e-5)
