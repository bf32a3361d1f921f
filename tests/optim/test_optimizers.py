"""Optimizers: what decays, what is fused, a step, and an exact resume from the state dict."""

import copy
import io

import pytest
import timm.optim.muon as library
import torch
from torch import Tensor, nn

from cifarlab.config import OptimConfig
from cifarlab.core.errors import ConfigError
from cifarlab.core.registries import OPTIMIZERS
from cifarlab.models.backbones import timm_backbone
from cifarlab.models.layers import hidden_matrices
from cifarlab.optim.optimizers import build_optimizer, parameter_groups
from cifarlab.training.setup import prepare
from tests.tiny import tiny_config

pytestmark = pytest.mark.quick


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Linear(6, 5)
        self.mix = nn.Conv2d(4, 6, 3, bias=False)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.mix(self.norm(self.conv(images)).relu()).mean((2, 3)))

    def hidden_matrices(self) -> list[str]:
        return ["mix.weight"]


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


AROUND = [{}, {"lookahead": {"steps": 2}}, {"lookahead": {"steps": 4}}]


@pytest.mark.parametrize("around", AROUND, ids=str)
@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_resumes_exactly_from_its_state_dict(name: str, around: dict):
    torch.manual_seed(0)
    whole = Network()
    halved = copy.deepcopy(whole)
    config = optim(name, lr=0.05, weight_decay=0.01, **around)
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
    # Engine sets rates through the groups: they must be those that the optimizer steps by.
    for group in second.param_groups:
        assert group["lr"] == 0.05
    train(resumed, second, range(3, 6))
    for key, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key


@pytest.mark.parametrize("name", ["adamw", "sgd"])
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


# Other values than the defaults, of every option that an optimizer has.
OTHERWISE = {
    "momentum": 0.5, "nesterov": False, "betas": (0.5, 0.6), "eps": 1.0, "iterations": 2, "scale": "original",
    "renormalize": True, "rest": "sgd", "rest_rate": 0.1,
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "option"),
    [(name, option) for name in OPTIMIZERS for option in OPTIMIZERS[name].schema.model_fields],
)
def test_every_option_has_an_effect(name: str, option: str):
    def trained(**options) -> dict[str, Tensor]:
        torch.manual_seed(0)
        model = Network()
        optimizer = build_optimizer(optim(name, lr=0.05, **options), model)
        for group in optimizer.param_groups:  # as the engine does
            group["lr"] = 0.05 * group.get("lr_scale", 1)
        train(model, optimizer, range(3))
        return model.state_dict()

    plain, changed = trained(), trained(**{option: OTHERWISE[option]})
    weight = "fc.weight" if option.startswith("rest") else "mix.weight"
    assert not torch.equal(plain[weight], changed[weight])


def test_norms_and_biases_are_not_decayed_unless_asked():
    model = Network()
    decayed, others = parameter_groups(model, 0.1, False)
    assert decayed["params"] == [model.conv.weight, model.fc.weight, model.mix.weight]
    assert decayed["weight_decay"] == 0.1
    assert others["params"] == [model.norm.weight, model.norm.bias, model.fc.bias]
    assert others["weight_decay"] == 0
    (all_of_them,) = parameter_groups(model, 0.1, True)
    assert len(all_of_them["params"]) == 6
    assert all_of_them["weight_decay"] == 0.1


def test_tokens_and_positions_are_not_decayed():
    model = nn.ModuleDict({"backbone": timm_backbone("test_vit", 32)})
    decayed, _ = parameter_groups(model, 0.1, False)
    names = {name for name, p in model.named_parameters() if any(p is q for q in decayed["params"])}
    assert "backbone.patch_embed.proj.weight" in names
    assert not {"backbone.pos_embed", "backbone.cls_token"} & names
    (asked,) = parameter_groups(model, 0.1, True)
    assert len(asked["params"]) == len([*model.parameters()])


def test_frozen_parameters_are_left_out():
    model = Network()
    model.conv.requires_grad_(False)
    optimizer = build_optimizer(optim("sgd"), [model, nn.Linear(2, 2)])
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 5 + 2
    with pytest.raises(ConfigError, match="frozen"):
        build_optimizer(optim("sgd"), Network().requires_grad_(False))


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ({"betas": [0.9, 1.0]}, ("betas", "1")),
        ({"eps": 0}, ("eps",)),
        ({"momentun": 0.9}, ("momentun",)),
        ({"name": "muon", "scale": "none"}, ("scale",)),
        ({"name": "muon", "rest": "muon"}, ("rest",)),
        ({"name": "muon", "rest": {"name": "sgd", "betas": [0, 0]}}, ("rest", "betas")),
        ({"name": "lion", "eps": 1e-8}, ("eps",)),
    ],
)
def test_bad_settings_are_refused_on_loading(options: dict, path: tuple[str, ...]):
    with pytest.raises(ConfigError) as caught:
        OPTIMIZERS.spec({"name": "adamw", **options})
    assert caught.value.path == path


def test_sgd_without_momentum():
    model = Network()
    train(model, build_optimizer(optim("sgd", momentum=0), model), range(1))


def test_lion_is_its_papers():
    """Algorithm 2 of Chen et al. 2023, written out."""
    torch.manual_seed(0)
    model = Network()
    twin = copy.deepcopy(model)
    train(model, build_optimizer(optim("lion", lr=0.01, weight_decay=0.1, decay_norms=True), model), range(4))
    momenta = {name: torch.zeros_like(parameter) for name, parameter in twin.named_parameters()}

    class Lion(torch.optim.Optimizer):
        def step(self, closure=None):  # pyright: ignore[reportIncompatibleMethodOverride]
            with torch.no_grad():
                for name, parameter in twin.named_parameters():
                    gradient = parameter.grad
                    assert gradient is not None
                    sign = (0.9 * momenta[name] + 0.1 * gradient).sign()
                    parameter -= 0.01 * (sign + 0.1 * parameter)
                    momenta[name] = 0.99 * momenta[name] + 0.01 * gradient

    train(twin, Lion(twin.parameters(), {}), range(4))
    torch.testing.assert_close(dict(model.named_parameters()), dict(twin.named_parameters()))


@pytest.mark.parametrize("scale", ["original", "match_rms_adamw"])
@pytest.mark.parametrize("rest", ["sgd", "adamw"])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_muon_is_torchs_on_flat_kernels_and_the_rest_its_optimizers(scale, rest, memory_format, monkeypatch):
    # torch's iterates in bfloat16 wherever it is.
    monkeypatch.setattr("cifarlab.optim.optimizers.has_bfloat16", lambda device: True)
    torch.manual_seed(0)
    model: nn.Module = Network().to(memory_format=memory_format)
    twin = copy.deepcopy(model)
    options = {"rest": rest, "rest_rate": 0.1, "scale": scale}
    optimizer = build_optimizer(optim("muon", lr=0.1, weight_decay=0.1, **options), model)
    for group in optimizer.param_groups:  # as the engine does
        group["lr"] = 0.1 * group.get("lr_scale", 1)
    train(model, optimizer, range(4))

    flat = nn.Parameter(twin.mix.weight.detach().flatten(1).clone())
    matrices = torch.optim.Muon([flat], lr=0.1, weight_decay=0.1, adjust_lr_fn=scale)
    decayed = [twin.conv.weight, twin.fc.weight]
    others = [{"params": decayed, "weight_decay": 0.1}, {"params": [*twin.norm.parameters(), twin.fc.bias]}]
    known = {"sgd": {"momentum": 0.9, "nesterov": True}, "adamw": {}}
    theirs = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[rest](
        others, lr=0.01, weight_decay=0.0, **known[rest]
    )

    class Both(torch.optim.Optimizer):
        def step(self, closure=None):  # pyright: ignore[reportIncompatibleMethodOverride]
            flat.grad = twin.mix.weight.grad.flatten(1).clone()
            matrices.step()
            theirs.step()
            twin.mix.weight.data.copy_(flat.detach().view_as(twin.mix.weight))

    train(twin, Both(twin.parameters(), {}), range(4))
    # Newton and Schulz iterate in bfloat16: 8 bits.
    torch.testing.assert_close(model.mix.weight, twin.mix.weight, rtol=0.02, atol=2e-3)
    for name in ("conv.weight", "norm.bias", "fc.weight", "fc.bias"):
        torch.testing.assert_close(
            model.get_parameter(name), twin.get_parameter(name), rtol=0.02, atol=2e-3, msg=name
        )


def test_norms_and_biases_have_their_own_rate():
    model = Network()
    optimizer = build_optimizer(optim("sgd", weight_decay=0.1, norm_rate=64), model)
    names = {parameter: name for name, parameter in model.named_parameters()}
    found = {
        names[parameter]: (group["lr_scale"], group["weight_decay"])
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    flat = ("norm.weight", "norm.bias", "fc.bias")
    assert {name for name, value in found.items() if value == (64, 0)} == {*flat}
    assert {name for name, value in found.items() if value == (1, 0.1)} == found.keys() - {*flat}
    config = optim("muon", norm_rate=64, layer_decay=0.5, rest_rate=0.25)
    scales = {group["lr_scale"] for group in build_optimizer(config, model).param_groups}
    assert {1, 0.25, 16} <= scales


def test_muon_renormalises_each_matrix_before_its_step():
    torch.manual_seed(0)
    model: nn.Module = Network()
    twin = copy.deepcopy(model)
    renormalized = build_optimizer(optim("muon", lr=0.1, renormalize=True), model)
    plain = build_optimizer(optim("muon", lr=0.1), twin)
    for _ in range(3):
        weight = twin.mix.weight.data
        weight *= len(weight) ** 0.5 / weight.flatten().norm()
        # The forward is computed with weights as they are before the norm is set.
        scaled = model.mix.weight.data
        scaled.copy_(weight * 3)
        gradient = torch.randn_like(weight)
        model.mix.weight.grad, twin.mix.weight.grad = gradient.clone(), gradient
        renormalized.step()
        plain.step()
        torch.testing.assert_close(model.mix.weight, twin.mix.weight)


def test_muon_renormalises_no_matrix_of_zeros():
    model = Network()
    nn.init.zeros_(model.mix.weight)
    train(model, build_optimizer(optim("muon", lr=0.1, renormalize=True), model), range(2))
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_muon_iterates_in_float32_where_bfloat16_is_emulated(monkeypatch):
    used, iterate = [], library.zeropower_via_newtonschulz

    def spy(*arguments, dtype=torch.bfloat16, **options):
        used.append(dtype)
        return iterate(*arguments, dtype=dtype, **options)

    monkeypatch.setattr(library, "zeropower_via_newtonschulz", spy)
    torch.manual_seed(0)
    model: nn.Module = Network()
    twin = copy.deepcopy(model)
    gradient = torch.randn_like(model.mix.weight)
    for has, network in ((True, model), (False, twin)):
        monkeypatch.setattr("cifarlab.optim.optimizers.has_bfloat16", lambda device, has=has: has)
        network.mix.weight.grad = gradient.clone()
        build_optimizer(optim("muon", lr=0.1), network).step()
        assert library.zeropower_via_newtonschulz is spy
    assert used == [torch.bfloat16, torch.float32]
    torch.testing.assert_close(model.mix.weight, twin.mix.weight, rtol=0.02, atol=2e-3)


def test_muon_keeps_the_rates_of_layers():
    config = tiny_config("optim={name: muon, layer_decay: 0.5, rest_rate: 0.25}")
    optimizer = prepare(config).engine.optimizer
    found = {(group.get("use_muon", False), group["lr_scale"]) for group in optimizer.param_groups}
    # Of the tiny backbone's four layers the second from the top is the matrix.
    assert found == {(True, 0.5**2), *((False, 0.25 * 0.5**depth) for depth in (0, 1, 3, 4))}


@pytest.mark.parametrize(
    ("backbone", "first", "among", "not_among"),
    [
        ("resnet18", "conv1.weight", "layer1.0.conv1.weight", "bn1.weight"),
        ("test_vit", "patch_embed.proj.weight", "blocks.0.attn.qkv.weight", "pos_embed"),
        (
            "test_convnext",
            "stem.0.weight",
            "stages.0.blocks.0.mlp.fc1.weight",
            "stages.0.blocks.0.conv_dw.weight",
        ),
    ],
)
def test_muon_takes_the_matrices_between_the_first_layer_and_the_head(backbone, first, among, not_among):
    found = hidden_matrices(timm_backbone(backbone, 32))
    assert among in found
    assert not {first, not_among} & {*found}


def test_muon_without_hidden_matrices_says_so():
    with pytest.raises(ConfigError, match=r"optim.name: no hidden matrix is trained") as caught:
        prepare(tiny_config("optim.name=muon", "model.freeze=backbone"))
    assert caught.value.path == ("optim", "name")


def test_muon_alone():
    model = Network()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name == "mix.weight")
    train(model, build_optimizer(optim("muon"), model), range(2))


def test_lookahead_is_its_papers():
    """Algorithm 1 of Zhang et al. 2019, from where the first steps lead."""
    torch.manual_seed(0)
    model = Network()
    twin = copy.deepcopy(model)
    config = optim("sgd", lr=0.1, lookahead={"steps": 3, "alpha": 0.25})
    train(model, build_optimizer(config, model), range(8))
    inner = build_optimizer(optim("sgd", lr=0.1), twin)
    train(twin, inner, range(3))
    for first in (3, 6):
        slow = [parameter.detach().clone() for parameter in twin.parameters()]
        train(twin, inner, range(first, min(first + 3, 8)))
        if first == 3:
            with torch.no_grad():
                for parameter, value in zip(twin.parameters(), slow, strict=True):
                    parameter.copy_(value + 0.25 * (parameter - value))
    torch.testing.assert_close(dict(model.named_parameters()), dict(twin.named_parameters()))
