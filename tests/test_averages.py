"""Averages: against torch's own, buffers, warm-up, resume."""

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from cifarlab.optim.averages import ExponentialAverage
from cifarlab.registry import AVERAGES, ConfigError


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 5))


def move(model: nn.Module, i: int) -> None:
    """One pretended step: the weights move, and the norm sees a batch."""
    generator = torch.Generator().manual_seed(i)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))
        model.train()(torch.randn(2, 3, 6, 6, generator=generator))


@pytest.mark.parametrize("name", list(AVERAGES))
def test_is_a_module_apart_and_resumes_exactly(name: str):
    model = network()
    whole = AVERAGES.spec(name).build(model)
    half = AVERAGES.spec(name).build(model)
    for i in range(6):
        move(model, i)
        whole.update_parameters(model)
        half.update_parameters(model)
        if i == 2:
            saved = copy.deepcopy(half.state_dict())
            half = AVERAGES.spec(name).build(network())
            half.load_state_dict(saved)
    assert whole.state_dict().keys() == half.state_dict().keys()
    for key, value in whole.state_dict().items():
        assert torch.equal(value, half.state_dict()[key]), key
    assert whole.module.state_dict().keys() == model.state_dict().keys()
    assert not any(p.requires_grad for p in whole.module.parameters())
    assert all(p.requires_grad for p in model.parameters())


def test_without_warmup_it_is_torchs():
    model = network()
    ours = AVERAGES.spec({"name": "ema", "decay": 0.9, "warmup": False}).build(model)
    assert isinstance(ours, ExponentialAverage)
    theirs = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    theirs.n_averaged += 1  # or its first update would copy
    for i in range(5):
        move(model, i)
        ours.update_parameters(model)
        theirs.update_parameters(model)
    for (key, value), expected in zip(
        ours.module.state_dict().items(), theirs.module.state_dict().values(), strict=True
    ):
        if value.is_floating_point():  # torch truncates its average of a counter
            torch.testing.assert_close(value, expected, msg=key)


def test_warmup_follows_the_model_closely_at_first():
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    average = AVERAGES.spec({"name": "ema", "decay": 0.5}).build(model)
    nn.init.ones_(model.weight)
    expected = 0.0
    for n in range(30):
        average.update_parameters(model)
        decay = min(0.5, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay)
        assert average.module.weight.item() == pytest.approx(expected, rel=1e-6)


def test_statistics_are_averaged_and_counters_copied():
    model = network()
    average: Any = AVERAGES.spec("ema").build(model)
    for i in range(3):
        move(model, i)
        average.update_parameters(model)
    assert average.module[1].num_batches_tracked == model.state_dict()["1.num_batches_tracked"] == 3
    assert not torch.equal(average.module[1].running_mean, model.state_dict()["1.running_mean"])
    assert average.module[1].running_mean.abs().sum() > 0


def test_a_decay_of_one_is_refused():
    with pytest.raises(ConfigError, match="less than 1"):
        AVERAGES.spec({"name": "ema", "decay": 1})
