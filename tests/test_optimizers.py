"""Optimizers: what decays, what is fused, a step, and an exact resume from the state dict."""

import copy
import io

import pytest
import torch
from torch import Tensor, nn

from cifarlab.config import OptimConfig
from cifarlab.models.backbones import timm_backbone
from cifarlab.optim.optimizers import build_optimizer, parameter_groups
from cifarlab.registry import OPTIMIZERS, ConfigError


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Linear(4, 5)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.norm(self.conv(images)).mean((2, 3)))


def optim(name: str, **options) -> OptimConfig:
    return OptimConfig.model_validate({"name": name, "schedule": {"name": "constant"}, **options})


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for i in steps:
        images = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(i))
        optimizer.zero_grad()
        model(images).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_a_step_moves_every_parameter(name: str):
    torch.manual_seed(0)
    model = Network()
    before = copy.deepcopy(model.state_dict())
    train(model, build_optimizer(optim(name, lr=0.1), model), range(2))
    for parameter, value in model.named_parameters():
        assert value.isfinite().all()
        assert not torch.equal(value, before[parameter]), parameter


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_resumes_exactly_from_its_state_dict(name: str):
    torch.manual_seed(0)
    whole = Network()
    halved = copy.deepcopy(whole)
    config = optim(name, lr=0.05, weight_decay=0.01)
    train(whole, build_optimizer(config, whole), range(6))
    first = build_optimizer(config, halved)
    train(halved, first, range(3))
    file = io.BytesIO()
    torch.save({"model": halved.state_dict(), "optimizer": first.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    resumed = Network()
    resumed.load_state_dict(saved["model"])
    second = build_optimizer(config, resumed)
    second.load_state_dict(saved["optimizer"])
    train(resumed, second, range(3, 6))
    for key, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_is_fused(name: str):
    assert build_optimizer(optim(name), Network()).defaults["fused"]


def test_matches_torchs_unfused_formulas():
    for name, reference in (
        ("sgd", lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True, fused=False)),
        ("adamw", lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0, fused=False, foreach=False)),
    ):
        torch.manual_seed(0)
        ours = Network()
        theirs = copy.deepcopy(ours)
        train(ours, build_optimizer(optim(name, lr=0.1), ours), range(3))
        train(theirs, reference(theirs.parameters()), range(3))
        torch.testing.assert_close(dict(ours.named_parameters()), dict(theirs.named_parameters()))


def test_norms_and_biases_are_not_decayed_unless_asked():
    model = Network()
    decayed, others = parameter_groups(model, 0.1, False)
    assert decayed["params"] == [model.conv.weight, model.fc.weight]
    assert decayed["weight_decay"] == 0.1
    assert others["params"] == [model.norm.weight, model.norm.bias, model.fc.bias]
    assert others["weight_decay"] == 0
    (all_of_them,) = parameter_groups(model, 0.1, True)
    assert len(all_of_them["params"]) == 5
    assert all_of_them["weight_decay"] == 0.1


def test_tokens_and_positions_are_not_decayed():
    model = nn.ModuleDict({"backbone": timm_backbone("test_vit", 32)})
    decayed, _ = parameter_groups(model, 0.1, False)
    names = {name for name, p in model.named_parameters() if any(p is q for q in decayed["params"])}
    assert "backbone.patch_embed.proj.weight" in names
    assert not {"backbone.pos_embed", "backbone.cls_token"} & names


def test_frozen_parameters_are_left_out():
    model = Network()
    model.conv.requires_grad_(False)
    optimizer = build_optimizer(optim("sgd"), [model, nn.Linear(2, 2)])
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 4 + 2
    with pytest.raises(ConfigError, match="frozen"):
        build_optimizer(optim("sgd"), Network().requires_grad_(False))


@pytest.mark.parametrize(
    ("options", "path"),
    [({"betas": [0.9, 1.0]}, ("betas", "1")), ({"eps": 0}, ("eps",)), ({"momentun": 0.9}, ("momentun",))],
)
def test_bad_settings_are_refused_on_loading(options: dict, path: tuple[str, ...]):
    with pytest.raises(ConfigError) as caught:
        OPTIMIZERS.spec({"name": "adamw", **options})
    assert caught.value.path == path


def test_sgd_without_momentum():
    model = Network()
    train(model, build_optimizer(optim("sgd", momentum=0), model), range(1))
