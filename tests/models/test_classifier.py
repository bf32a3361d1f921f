"""`Classifier`: its input layer, its state, and what a recipe makes of it."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms import v2

from cifarlab.config import ModelConfig
from cifarlab.core.errors import ConfigError
from cifarlab.models.classifier import Classifier, build_classifier, resize_batch
from cifarlab.models.heads import Linear

pytestmark = pytest.mark.quick

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


class Pixels(nn.Module):
    """A backbone that answers with what it sees."""

    num_features = 3

    def forward(self, images: Tensor) -> Tensor:
        self.seen = images
        return images.mean((2, 3))


def classifier(size: int = 8) -> Classifier:
    return Classifier(Pixels(), Linear(3, 5), image_size=size, mean=MEAN, std=STD, classes=5)


def seen(model: Classifier) -> Tensor:
    assert isinstance(model.backbone, Pixels)
    return model.backbone.seen


def pictures(size: int) -> Tensor:
    return torch.randint(
        0, 256, (4, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )


def model_config(**options) -> ModelConfig:
    return ModelConfig.model_validate({"backbone": "test_resnet", "head": "linear", **options})


def test_bytes_and_floats_are_the_same_pictures():
    model, images = classifier(), pictures(8)
    assert torch.equal(model(images).logits, model(images.float() / 255).logits)
    expected = (images.numpy() / 255 - np.reshape(MEAN, (3, 1, 1))) / np.reshape(STD, (3, 1, 1))
    np.testing.assert_allclose(seen(model).numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("size", [5, 8, 16])
def test_pictures_of_any_size_are_resized(size: int):
    model, images = classifier(), pictures(size)
    model(images)
    assert seen(model).shape == (4, 3, 8, 8)
    plain = F.interpolate(images.float() / 255, (8, 8), mode="bilinear", antialias=size > 8)
    torch.testing.assert_close(seen(model) * model.std + model.mean, plain)


def test_a_size_may_be_asked_for():
    model = classifier()
    model(pictures(8), image_size=12)
    assert seen(model).shape[-2:] == (12, 12)


def test_resizing_down_is_antialiased_and_equal_sizes_are_left_alone():
    images = pictures(8).float()
    assert resize_batch(images, 8) is images
    stripes = torch.zeros(1, 1, 8, 8)
    stripes[..., ::2] = 1
    assert (resize_batch(stripes, 4)[..., 1:-1] - 0.5).abs().max() < 0.15
    wide = resize_batch(torch.rand(1, 3, 4, 10), 6)
    assert wide.shape == (1, 3, 6, 6)


@pytest.mark.parametrize("side", [4, 7, 20, 31, 32, 33, 64, 224])
def test_resize_is_torchvisions(side: int):
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    theirs = v2.functional.resize(images, [side, side], antialias=True)
    torch.testing.assert_close(resize_batch(images, side), theirs)


def test_autocast_does_not_touch_the_input_layer():
    model = classifier(12)
    model(pictures(8))
    exact = seen(model)
    with torch.autocast("cpu", torch.bfloat16):
        model(pictures(8))
    assert seen(model).dtype == torch.float32
    assert torch.equal(seen(model), exact)


def test_the_state_dict_carries_the_normalisation():
    model = build_classifier(model_config(normalize="dataset"), 32, 7, dataset_mean_std=(MEAN, STD))
    state = model.state_dict()
    assert {name.partition(".")[0] for name in state} == {"mean", "std", "backbone", "head"}
    assert state["mean"].shape == (1, 3, 1, 1)
    other = build_classifier(model_config(normalize="none"), 32, 7)
    other.load_state_dict(state)
    images = pictures(32)
    assert torch.equal(model.eval()(images).logits, other.eval()(images).logits)


def test_normalisations_by_name():
    def statistics(kind: str) -> tuple[list[float], list[float]]:
        model = build_classifier(model_config(normalize=kind), 32, 7, dataset_mean_std=(MEAN, STD))
        return model.mean.flatten().tolist(), model.std.flatten().tolist()

    assert statistics("none") == ([0, 0, 0], [1, 1, 1])
    assert statistics("imagenet")[0] == pytest.approx([0.485, 0.456, 0.406])
    assert statistics("imagenet")[1] == pytest.approx([0.229, 0.224, 0.225])
    assert statistics("dataset") == (pytest.approx(MEAN), pytest.approx(STD))
    with pytest.raises(ConfigError) as caught:
        build_classifier(model_config(normalize="dataset"), 32, 7)
    assert caught.value.path == ("model", "normalize")


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [
        ("resnetv2_50x1_bit.goog_in21k", (0.5,) * 3, (0.5,) * 3),
        ("vit_tiny_patch16_224.augreg_in21k", (0.5,) * 3, (0.5,) * 3),
        ("deit_tiny_patch16_224.fb_in1k", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ],
)
def test_normalisation_of_the_published_weights(name, mean, std):
    config = ModelConfig.model_validate({"backbone": name, "head": "linear", "normalize": "pretrained"})
    model = build_classifier(config, 32, 7)
    assert model.mean.flatten().tolist() == pytest.approx(mean)
    assert model.std.flatten().tolist() == pytest.approx(std)


def test_normalisation_of_weights_that_nobody_publishes():
    config = ModelConfig.model_validate(
        {"backbone": "resnet8x4", "head": "linear", "normalize": "pretrained"}
    )
    with pytest.raises(ConfigError, match=r"no published weights; set model\.normalize=dataset") as caught:
        build_classifier(config, 32, 7)
    assert caught.value.path == ("model", "normalize")


def test_classes_and_widths():
    named = build_classifier(model_config(), 32, 2, classes=["cat", "dog"])
    assert (named.classes, named.num_classes) == (("cat", "dog"), 2)
    assert build_classifier(model_config(), 32, 3).classes == ("0", "1", "2")
    assert named.num_features == named.backbone.num_features == 96
    margin = build_classifier(model_config(head={"name": "margin", "dim": 10}), 32, 3)
    assert margin.num_features == 10
    assert margin.eval()(pictures(32)).embedding.shape == (4, 10)
    assert margin.loaded == ()
