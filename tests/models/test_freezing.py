"""Freezing: what is frozen does not change, by whatever way; the rest does."""

import copy
import json
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.modules.batchnorm import _BatchNorm

import cifarlab
from cifarlab.config import ModelConfig
from cifarlab.core import checkpoints
from cifarlab.core.errors import ConfigError
from cifarlab.core.registries import AVERAGES
from cifarlab.engine.scoring import logits_of
from cifarlab.models.classifier import Classifier, build_classifier, to_device
from cifarlab.models.freezing import freeze
from cifarlab.training.setup import prepare
from tests.tiny import tiny_config, train_tiny
from tests.training.test_loop import assert_same_run

CPU = torch.device("cpu")


def classifier(backbone: str = "test_resnet", head: str = "margin") -> Classifier:
    torch.manual_seed(0)
    return build_classifier(ModelConfig.model_validate({"backbone": backbone, "head": head}), 32, 5)


MODEL = classifier()
NAMES = [name for name, _ in MODEL.named_parameters()]
# Every module with a parameter below it, and the parameters themselves.
PARTS = sorted({".".join(name.split(".")[:n]) for name in NAMES for n in range(1, name.count(".") + 2)})


@given(st.lists(st.sampled_from(PARTS), max_size=4))
def test_what_lies_in_a_part_is_frozen_and_nothing_else(parts):
    model = copy.deepcopy(MODEL)
    freeze(model, parts)
    for name, parameter in model.named_parameters():
        inside = any(re.match(rf"{re.escape(part)}(\.|$)", name) for part in parts)
        assert parameter.requires_grad != inside, name


@pytest.mark.parametrize(
    ("part", "hint"),
    [
        ("backbone.layer5", "did you mean backbone.layer"),
        ("layer1", "did you mean backbone.layer1?"),
        ("layer1.0.bn1", "did you mean backbone.layer1.0.bn1?"),
        ("backbon", "did you mean backbone?"),
        ("backbone.maxpool", "no parameter matches 'backbone.maxpool'"),
        ("backbone.layer", "did you mean backbone.layer"),
        ("zzz", "head or backbone.<part>"),
        ("", "no parameter matches ''"),
    ],
)
def test_a_part_that_is_not_there(part, hint):
    with pytest.raises(ConfigError) as caught:
        freeze(classifier(), ["head", part])
    assert caught.value.path == ("model", "freeze")
    assert hint in str(caught.value)
    assert "\n" not in str(caught.value)


def statistics(model: Classifier) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.named_buffers() if name.split(".")[-1] != "mean"}


def norms_that_move(model: Classifier) -> set[str]:
    """Batch norms whose statistics a forward pass in training mode changes."""
    before = statistics(model)
    model.train()(torch.rand(8, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    after = statistics(model)
    return {name.rpartition(".")[0] for name in before if not torch.equal(before[name], after[name])}


def norms(model: Classifier, prefix: str = "") -> set[str]:
    found = (name for name, module in model.named_modules() if isinstance(module, _BatchNorm))
    return {name for name in found if name.startswith(prefix)}


# timm's own BatchNormAct2d in EfficientNet; in both a BatchNorm1d in the head.
@pytest.mark.parametrize(("backbone", "part"), [("test_resnet", "layer1"), ("test_efficientnet", "blocks.0")])
def test_which_batch_norms_keep_their_statistics(backbone, part):
    part = f"backbone.{part}"

    def moving(choice):
        model = classifier(backbone)
        freeze(model, [part], batch_norm_eval=choice)
        return norms_that_move(model)

    every = norms(classifier(backbone))
    inside = norms(classifier(backbone), f"{part}.")
    assert inside
    assert "head.norm" in every
    assert moving("none") == every
    assert moving("frozen") == every - inside
    assert moving("backbone") == {"head.norm"}


def test_a_frozen_norm_and_a_frozen_head():
    model = classifier()
    freeze(model, ["backbone.conv1", "head.norm"])
    assert "head.norm" not in norms_that_move(model)
    freeze(model, ["head"], batch_norm_eval="backbone")
    assert norms_that_move(model) == set()
    freeze(model, [])
    assert norms_that_move(model) == norms(model)


def test_a_frozen_part_computes_the_same_in_training_as_in_evaluation():
    model = classifier()
    freeze(model, ["backbone"])
    images = torch.rand(8, 3, 32, 32)
    assert torch.equal(model.train().backbone(images), model.eval().backbone(images))
    freeze(model, ["backbone"], batch_norm_eval="none")
    assert not torch.allclose(model.train().backbone(images), model.eval().backbone(images))


def test_norms_stay_in_evaluation_mode_through_copies_devices_and_scoring():
    model = classifier()
    freeze(model, ["backbone.layer1"])
    expected = norms(model) - norms(model, "backbone.layer1.")
    assert to_device(model, CPU) is model
    average = AVERAGES.spec("ema").build(model)
    engine = prepare(tiny_config()).engine
    assert len(list(logits_of(model, engine.train_split, engine.precision, 32))) == 1
    for copied in (model, copy.deepcopy(model), average.module):
        assert norms_that_move(copied) == expected
    # The copy's norms are its own: the original's mode is not the copy's.
    original = classifier()
    freeze(original, [], batch_norm_eval="backbone")
    twin = copy.deepcopy(original)
    original.norms_in_eval = ()
    original.train()
    assert not twin.train().get_submodule("backbone.bn1").training


FROZEN = (
    "model.freeze=[backbone.0, backbone.1]",
    "train.average={name: ema, decay: 0.9}",
    "optim.weight_decay=0.5",
    "optim.decay_norms=true",
    "optim.layer_decay=0.8",
)


@pytest.fixture(scope="module")
def frozen_run(tmp_path_factory):
    return train_tiny(tmp_path_factory.mktemp("runs") / "frozen" / "0", *FROZEN)[0]


def test_what_is_frozen_is_bit_for_bit_what_it_was(frozen_run):
    began = prepare(tiny_config(*FROZEN)).engine.model.state_dict()
    last = checkpoints.load_checkpoint(frozen_run.last_path, ())["engine"]
    best = checkpoints.load_checkpoint(frozen_run.best_path, ())["model"]
    average = {key.removeprefix("module."): value for key, value in last["average"].items()}
    held = [name for name in began if name.startswith(("backbone.0.", "backbone.1."))]
    assert {"backbone.0.weight", "backbone.1.weight", "backbone.1.running_var"} <= set(held)
    for state in (last["model"], average, best):
        for name, value in began.items():
            assert torch.equal(state[name], value) == (name in held or name in ("mean", "std")), name
    sizes = [len(group["params"]) for group in last["optimizer"]["param_groups"]]
    assert sum(sizes) == sum(
        not name.startswith(("backbone.0.", "backbone.1."))
        for name, _ in prepare(tiny_config()).engine.model.named_parameters()
    )
    notes = json.loads(frozen_run.env_path.read_text())["notes"]
    assert "frozen: 232 of 3,116 parameters, and the statistics of 1 of 2 batch norms" in notes


def test_a_run_with_frozen_parts_resumes_exactly(frozen_run, tmp_path, stop_at):
    with stop_at(9):
        train_tiny(tmp_path / "halved", *FROZEN)
    halved, _ = train_tiny(tmp_path / "halved", *FROZEN)
    assert_same_run(frozen_run, halved)


def test_a_loaded_model_is_not_frozen(frozen_run):
    model = cifarlab.load(frozen_run.folder)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(module.training for module in model.modules())
    assert all(module.training for module in model.train().modules())


def test_all_frozen_is_nothing_to_train(tmp_path):
    with pytest.raises(ConfigError, match="nothing to train"):
        train_tiny(tmp_path / "runs" / "a" / "0", "model.freeze=[backbone, head]")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("overrides", "idle"),
    [
        (["model.batch_norm_eval=none"], ["model.batch_norm_eval"]),
        (["model.batch_norm_eval=none", "model.freeze=backbone.1"], []),
        (["model.batch_norm_eval=backbone"], []),
        (["model.batch_norm_eval=backbone", "model.backbone={name: test_vit}"], ["model.batch_norm_eval"]),
        (["model.freeze=backbone", "optim.layer_decay=0.5"], ["optim.layer_decay"]),
        (["model.freeze=backbone.1", "optim.layer_decay=0.5"], []),
    ],
)
def test_choices_without_effect_are_named(overrides, idle):
    assert prepare(tiny_config(*overrides)).remarks.warnings == [f"{key} has no effect here" for key in idle]
