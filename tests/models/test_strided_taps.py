import copy
from pathlib import Path

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from cifarlab.models.cpu_convolutions.strided_taps import StridedTapConv2d, use_strided_taps
from cifarlab.training.setup import prepare
from tests.tiny import tiny_config

PARTS = Path(__file__).parents[2] / "benchmarks" / "embedding_parts.py"
CHANNELS = st.integers(1, 20)


@given(CHANNELS, CHANNELS, st.integers(1, 9), st.sampled_from([2, 3, (1, 2)]), st.booleans(), st.booleans())
@settings(max_examples=60, deadline=None)
def test_values_and_gradients_are_conv2ds(channels, outputs, size, stride, bias, channels_last):
    torch.manual_seed(size)
    conv = nn.Conv2d(channels, outputs, 1, stride, bias=bias)
    images = torch.randn(4, channels, size, size)
    ours = nn.Sequential(copy.deepcopy(conv))
    assert use_strided_taps(ours) == (channels < 16)
    assert list(ours.state_dict()) == [f"0.{name}" for name in conv.state_dict()]
    results = []
    # oneDNN has no double: the reference is not its kernel's.
    for module, seen in ((ours, images), (conv.double(), images.double())):
        layout = torch.channels_last if channels_last else torch.contiguous_format
        module.to(memory_format=layout)
        seen = seen.to(memory_format=layout).requires_grad_()
        output = module(seen)
        gradients = torch.autograd.grad(output.square().sum(), [seen, *module.parameters()])
        results.append([value.double() for value in (output, *gradients)])
    for found, truth in zip(*results, strict=True):
        torch.testing.assert_close(found, truth, rtol=1e-4, atol=1e-4)


def test_other_geometries_stay():
    others = [
        nn.Conv2d(4, 8, 1),
        nn.Conv2d(4, 8, 3, 2, 1),
        nn.Conv2d(4, 8, 1, 2, 1),
        nn.Conv2d(4, 8, 1, 2, groups=2),
        nn.Conv2d(16, 32, 1, 2),
    ]
    assert use_strided_taps(nn.Sequential(*others)) == 0


def test_a_classifier_on_the_cpu_has_them():
    config = tiny_config(f"imports=[{PARTS}]", "model.backbone={name: two_numbers, width: 2}")
    model = prepare(config).engine.model
    found = [part for part in model.modules() if isinstance(part, StridedTapConv2d)]
    assert [conv.in_channels for conv in found] == [2, 4, 8]
