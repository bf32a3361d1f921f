"""The border: from it on a network says what it says whole, and where it cannot the reason is told."""

import copy
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from cifarlab.config import ModelConfig
from cifarlab.config.imports import import_builtin_parts
from cifarlab.core.batch import Batch, Output
from cifarlab.core.device import pick_precision
from cifarlab.core.registries import LOSSES
from cifarlab.engine.frozen import NoBorder, find_border, frozen_share
from cifarlab.engine.frozen.tail import Border, Tail, activations_at, no_images
from cifarlab.models.classifier import Classifier, build_classifier, to_device
from cifarlab.models.freezing import freeze
from cifarlab.objectives.objective import Objective

CPU = torch.device("cpu")
CLASSES = 5
import_builtin_parts()
OBJECTIVE = Objective(
    {"cross_entropy": LOSSES.spec({"name": "cross_entropy"}).bind()}, {"cross_entropy": 1.0}
)
RESNET = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4")
EFFICIENTNET = ("conv_stem", "bn1", "blocks.0", "blocks.1", "blocks.2", "conv_head", "bn2")
VIT = ("patch_embed", "pos_embed", "cls_token", "blocks.0")


def classifier(backbone: str, *frozen: str, norms: str = "frozen", head: object = "linear") -> Classifier:
    torch.manual_seed(0)
    config = ModelConfig.model_validate({"backbone": backbone, "head": head})
    model = to_device(build_classifier(config, 32, CLASSES), CPU)
    for module in model.modules():  # Fresh statistics (0 and 1) would hide a norm that is used twice.
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 2)
    freeze(model, [f"backbone.{part}" if part else "backbone" for part in frozen], batch_norm_eval=norms)
    return model.train()


def batch(count: int = 6, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    images = torch.rand(count, 3, 32, 32, generator=generator)
    return Batch(images, labels, nn.functional.one_hot(labels, CLASSES).float(), torch.arange(count))


def border_of(model: Classifier, precision: str = "float32") -> Border:
    return find_border(model, OBJECTIVE, batch(), pick_precision(precision, CPU))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("backbone", "frozen", "last"),
    [
        ("test_resnet", ("",), "backbone"),
        ("test_resnet", RESNET, "backbone"),
        ("test_resnet", RESNET[:3], "backbone.layer1"),
        ("test_resnet", RESNET[:4], "backbone.layer2"),
        ("test_resnet", RESNET[:1], "backbone.conv1"),
        ("test_efficientnet", ("",), "backbone"),
        ("test_efficientnet", EFFICIENTNET[:3], "backbone.blocks.0"),
        ("test_efficientnet", EFFICIENTNET[:5], "backbone.blocks.2"),
        ("mobilenetv3_small_050", ("conv_stem", "bn1", "blocks.0", "blocks.1.0"), "backbone.blocks.1.0"),
        ("test_convnext", ("stem", "stages.0"), "backbone.stages.0"),
        ("test_vit", VIT, "backbone.blocks.0"),
        # The position embeddings are trained, and they are added behind the patches.
        ("test_vit", ("patch_embed", "blocks.0"), "backbone.patch_embed"),
    ],
)
def test_from_the_border_on_a_network_says_what_it_says_whole(
    backbone: str, frozen: tuple[str, ...], last: str, precision: str
) -> None:
    """In training and evaluation mode, gradients and running statistics included, bit for bit."""
    model = classifier(backbone, *frozen)
    arithmetic = pick_precision(precision, CPU)
    border = border_of(model, precision)
    assert border.name == last
    other = copy.deepcopy(model)
    tail = Tail(other, border)
    for step in range(3):
        shown = batch(8, seed=step)
        kept = activations_at(model, border, shown.images, arithmetic, 32)
        assert tuple(kept.shape[1:]) == border.shape
        assert kept.dtype == border.dtype
        for training in (True, False):
            outputs = []
            for module, shown_to_it in ((model.train(training), shown.images), (tail.train(training), kept)):
                torch.manual_seed(step)
                with arithmetic.autocast():
                    output: Output = module(
                        arithmetic.layout(shown_to_it) if module is model else shown_to_it
                    )
                    loss = OBJECTIVE(shown, output)["total"]
                if training:
                    loss.backward()
                outputs.append(output.logits)
            assert torch.equal(*outputs)
        for (name, one), (_, two) in zip(model.named_parameters(), other.named_parameters(), strict=True):
            assert (one.grad is None) == (two.grad is None), name
            assert one.grad is None or torch.equal(one.grad, two.grad), name
            with torch.no_grad():
                for parameter in (one, two):
                    if parameter.grad is not None:
                        parameter -= 0.1 * parameter.grad
                        parameter.grad = None
    for (name, one), two in zip(model.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(one, two), name


def modes(module: nn.Module) -> dict[str, bool]:
    return {name: part.training for name, part in module.named_modules()}


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 6), st.sampled_from(["none", "frozen", "backbone"]), st.booleans())
def test_the_tail_has_the_modes_of_the_classifier(count: int, norms: str, training: bool) -> None:
    model = classifier("test_resnet", *RESNET[:count], norms=norms)
    border = border_of(model)
    tail = Tail(model, border)
    tail.train(training)
    found = {name: mode for name, mode in modes(tail).items() if name not in border.modules}
    model.train(training)
    assert found == {name: mode for name, mode in modes(model).items() if name in found} | {"": training}
    assert len(found) < len(modes(model))


@pytest.mark.parametrize("seed", range(3))
def test_what_is_frozen_behind_something_trained_is_no_first_part(seed: int) -> None:
    model = classifier("test_resnet", *RESNET[1 + seed :])
    with pytest.raises(NoBorder, match=r"backbone\.conv1\S* runs before .* it is trained"):
        border_of(model)


def test_norms_that_see_the_batch_end_the_frozen_part() -> None:
    assert border_of(classifier("test_resnet", "", norms="frozen")).name == "backbone"
    assert border_of(classifier("test_resnet", "", norms="none")).name == "backbone.conv1.0"


def put(model: Classifier, backbone: nn.Module, width: int) -> Classifier:
    """The classifier with another backbone, frozen but for what its name says."""
    backbone.num_features = width  # type: ignore[assignment]
    model.backbone = backbone
    model.head.fc = nn.Linear(width, CLASSES)
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad_("trained" in name)
    return model


class Block(nn.Module):
    """A convolution; `noise` is random in training."""

    def __init__(self, noise: float = 0.0):
        super().__init__()
        self.conv, self.noise = nn.Conv2d(3, 3, 3, padding=1), noise

    def forward(self, images: Tensor) -> Tensor:
        output = self.conv(images)
        return output + self.noise * torch.rand(()) if self.training else output


class Net(nn.Module):
    """Two blocks and a trained one; `skip` adds the first one's output in the end, times a gate from 0."""

    def __init__(self, skip: bool = False, noise: float = 0.0, between: bool = False):
        super().__init__()
        self.first, self.second, self.trained = Block(noise), Block(), Block()
        self.trained_gate = nn.Parameter(torch.zeros(()))
        self.skip, self.between = skip, between

    def forward(self, images: Tensor) -> Tensor:
        early = self.first(images)
        output = self.second(early.relu() - 1 if self.between else early)
        output = self.trained(output)
        return (output + self.trained_gate * early if self.skip else output).mean((2, 3))


def test_a_skip_over_the_border_moves_it_before_the_skip() -> None:
    """The gate is 0 at first: only its gradient tells."""
    assert border_of(put(classifier("test_resnet"), Net(), 3)).name == "backbone.second"
    assert border_of(put(classifier("test_resnet"), Net(skip=True), 3)).name == "backbone.first"


def test_what_lies_between_frozen_modules_is_skipped_with_them() -> None:
    assert border_of(put(classifier("test_resnet"), Net(between=True), 3)).name == "backbone.second"


@pytest.mark.parametrize("noise", [1.0, 1e-3])
def test_a_frozen_part_that_is_random_is_refused(noise: float) -> None:
    with pytest.raises(NoBorder, match="is not deterministic"):
        border_of(put(classifier("test_resnet"), Net(noise=noise), 3))


class Dropping(nn.Sequential):
    """A frozen block, dropout of a small share, a trained block, pooled."""

    def __init__(self, rate: float):
        super().__init__()
        self.first, self.drop, self.trained = Block(), nn.Dropout(rate), Block()
        self.pool, self.flat = nn.AdaptiveAvgPool2d(1), nn.Flatten()


@pytest.mark.parametrize(("rate", "last"), [(0.0, "backbone.drop"), (1e-9, "backbone.first")])
def test_active_dropout_ends_the_frozen_part(rate: float, last: str) -> None:
    """A rate at which no trial would show it."""
    assert border_of(put(classifier("test_resnet"), Dropping(rate), 3)).name == last


class TwiceTheSame(nn.Module):
    """A frozen block that is used again behind the trained one."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.trained = Block(), Block()

    def forward(self, images: Tensor) -> Tensor:
        return self.first(self.trained(self.first(images))).mean((2, 3))


def test_a_module_that_runs_twice_is_not_skipped() -> None:
    with pytest.raises(NoBorder):
        border_of(put(classifier("test_resnet"), TwiceTheSame(), 3))


def test_a_loss_that_looks_at_pictures_is_refused() -> None:
    def brightness(batch: Batch, output: Output) -> Tensor:
        return output.logits.mean() * batch.images.mean()

    model = classifier("test_resnet", "")
    with pytest.raises(NoBorder, match=r"losses|gradients|logits"):
        find_border(model, Objective({"b": brightness}, {"b": 1.0}), batch(), pick_precision("float32", CPU))


def test_the_search_leaves_the_classifier_as_it_was() -> None:
    model = classifier("test_resnet", *RESNET[:3])
    before, flags = copy.deepcopy(model.state_dict()), modes(model)
    border = border_of(model)
    frozen_share(model, border)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in before.items())
    assert modes(model) == flags
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in model.modules())


def test_the_share_of_a_forward_pass() -> None:
    """Of a linear probe all but the head; more where more is frozen."""
    shares = []
    for count in (1, 3, 4, 6):
        model = classifier("test_resnet", *RESNET[:count])
        shares.append(frozen_share(model, border_of(model)))
    assert shares == sorted(shares)
    assert shares[0] > 0
    model = classifier("test_resnet", "")
    border = border_of(model)
    head = torch.Size(border.shape).numel() * CLASSES
    counted = sum(layer.weight.numel() for layer in model.modules() if isinstance(layer, nn.Linear))
    assert counted == head
    assert 0.99 < frozen_share(model, border) < 1


def test_no_pictures_stand_for_as_many() -> None:
    shown = replace(batch(7), images=no_images(7, CPU))
    assert len(shown.images) == 7
    assert not shown.images.numel()
