"""Layer-wise learning rates: against timm's own groups, and what a step makes of them."""

from typing import Any

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay  # pyright: ignore[reportPrivateImportUsage]
from torch import nn

from cifarlab.config import ModelConfig, OptimConfig
from cifarlab.models.classifier import build_classifier
from cifarlab.models.layers import layer_depths
from cifarlab.optim.optimizers import build_optimizer
from cifarlab.training.setup import prepare
from tests.tiny import tiny_config, train_tiny
from tests.training.test_loop import assert_same_run

DECAY = 0.7


@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "vit_tiny_patch16_224",
        "test_convnext",
        "test_efficientnet",
        "test_vit2",
        "mobilenetv3_small_050",
    ],
)
def test_rates_and_weight_decay_are_those_of_timm(name):
    backbone = {"name": name}
    model = build_classifier(ModelConfig.model_validate({"backbone": backbone, "head": "linear"}), 32, 5)
    config = {"name": "adamw", "weight_decay": 0.1, "layer_decay": DECAY, "schedule": {"name": "constant"}}
    groups = build_optimizer(OptimConfig.model_validate(config), model).param_groups
    size = {"img_size": 32} if "vit" in name else {}
    theirs: Any = timm.create_model(name, num_classes=5, **size)
    exempt = theirs.no_weight_decay() if hasattr(theirs, "no_weight_decay") else ()
    reference = param_groups_layer_decay(
        theirs, weight_decay=0.1, no_weight_decay_list=exempt, layer_decay=DECAY
    )
    classifier = theirs.pretrained_cfg["classifier"]

    def by_name(module, groups, prefix, head):
        names = {parameter: name for name, parameter in module.named_parameters()}
        found = {names[p]: (g["lr_scale"], g["weight_decay"]) for g in groups for p in g["params"]}
        return {
            f"head{name.removeprefix(head)}"
            if name.startswith(f"{head}.")
            else name.removeprefix(prefix): value
            for name, value in found.items()
        }

    ours = by_name(model, groups, "backbone.", "head.fc")
    assert ours == by_name(theirs, reference, "", classifier)
    assert len(ours) == len(list(model.parameters()))
    assert ours["head.weight"] == (1.0, 0.1)
    assert min(scale for scale, _ in ours.values()) < DECAY**4


def test_without_a_matcher_the_children_are_the_layers():
    assert layer_depths(prepare(tiny_config()).engine.model.backbone) == {
        "0.weight": 4, "1.weight": 3, "1.bias": 3, "3.weight": 2, "4.weight": 1, "4.bias": 1
    }  # fmt: skip


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        self.norm = nn.LayerNorm(2)
        self.token = nn.Parameter(torch.zeros(2))


def test_a_backbones_own_parameters_lie_with_its_first_layer():
    depths = layer_depths(Tokens())
    assert (depths["token"], depths["blocks.0.weight"], depths["blocks.1.bias"], depths["norm.bias"]) == (
        2,
        2,
        2,
        1,
    )
    assert layer_depths(nn.Linear(2, 3)) == {"weight": 1, "bias": 1}


def test_the_objectives_parameters_have_the_whole_rate():
    model = build_classifier(ModelConfig.model_validate({"backbone": "resnet18", "head": "margin"}), 32, 5)
    config = {"name": "sgd", "layer_decay": DECAY, "schedule": {"name": "constant"}}
    objective = nn.Linear(3, 4)
    optimizer = build_optimizer(OptimConfig.model_validate(config), [model, objective])
    scales = {p: group["lr_scale"] for group in optimizer.param_groups for p in group["params"]}
    assert all(scales[p] == 1 for p in [*objective.parameters(), *model.head.parameters()])
    assert scales[model.backbone.conv1.weight] == DECAY**9


def test_a_step_moves_each_layer_at_its_own_rate():
    """Plain gradient descent: the first step's moves are those of one rate, each times its layer's share."""

    def moves(*overrides):
        engine = prepare(
            tiny_config(
                "optim={name: sgd, lr: 0.1, momentum: 0, weight_decay: 0, schedule: cosine}",
                "train.precision=float32",
                *overrides,
            )
        ).engine
        before = {name: p.detach().clone() for name, p in engine.model.named_parameters()}
        engine.model.train()
        engine.step(engine.order(0), 0, step=5)
        rate = engine.learning_rate(5)
        assert all(g["lr"] == rate * g.get("lr_scale", 1) for g in engine.optimizer.param_groups)
        return engine.model, {name: p.detach() - before[name] for name, p in engine.model.named_parameters()}

    model, whole = moves()
    _, decayed = moves("optim.layer_decay=0.5")
    depths = model.layer_depths()
    assert set(depths.values()) == {1, 2, 3, 4}
    for name, move in whole.items():
        assert move.abs().max() > 0, name
        torch.testing.assert_close(decayed[name], move * 0.5 ** depths.get(name, 0), rtol=1e-3, atol=1e-7)


def test_groups_of_a_default_recipe_have_no_scale():
    optimizer = prepare(tiny_config()).engine.optimizer
    assert len(optimizer.param_groups) == 2
    assert not any("lr_scale" in group for group in optimizer.param_groups)


def test_a_run_with_layer_decay_resumes_exactly(tmp_path, stop_at):
    overrides = ("optim.layer_decay=0.5", "train.average={name: ema, decay: 0.9}")
    whole, _ = train_tiny(tmp_path / "whole", *overrides)
    with stop_at(9):
        train_tiny(tmp_path / "halved", *overrides)
    halved, _ = train_tiny(tmp_path / "halved", *overrides)
    assert_same_run(whole, halved)
