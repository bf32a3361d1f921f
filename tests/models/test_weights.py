"""Weights: every name accounted for; foreign, broken and missing files refused in one line, and quickly."""

import hashlib
import pickle
import socket
import time
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn

from cifarlab.config import ModelConfig
from cifarlab.core.errors import ConfigError
from cifarlab.core.registries import BACKBONES
from cifarlab.models.backbones import timm_backbone
from cifarlab.models.classifier import build_classifier
from cifarlab.models.published_weights import fetch_weights, weights_folder
from cifarlab.models.weights import init_from, load_weights, read_weights


def config(backbone: object = "test_resnet", head: object = "linear", **options) -> ModelConfig:
    return ModelConfig.model_validate({"backbone": backbone, "head": head, **options})


def classifier(backbone: object = "test_resnet", classes: int = 5, seed: int = 0, **options) -> Any:
    torch.manual_seed(seed)
    return build_classifier(config(backbone, **options), 32, classes)


def published(name: str, folder: Path, seed: int = 9) -> Path:
    """A file as timm publishes them: the whole model, classifier and all."""
    torch.manual_seed(seed)
    path = folder / f"{name}.safetensors"
    save_file(timm.create_model(name).state_dict(), path)
    return path


def assert_one_line(error: ConfigError, *words: object) -> None:
    assert "\n" not in str(error)
    for word in words:
        assert str(word) in str(error)


@pytest.mark.parametrize(
    ("ending", "wrapping"),
    [
        *(
            (ending, wrapping)
            for ending in ("pt", "pth")
            for wrapping in (None, "model", "state_dict", "module.")
        ),
        *(("safetensors", wrapping) for wrapping in (None, "module.")),
    ],
)
def test_reads_what_is_usual(tmp_path: Path, ending: str, wrapping: str | None):
    state = {"a.weight": torch.rand(2, 3), "b": torch.tensor(4)}
    path = tmp_path / f"file.{ending}"
    content: dict = {f"module.{k}": v for k, v in state.items()} if wrapping == "module." else dict(state)
    if ending == "safetensors":
        save_file(content, path)
    else:
        torch.save({wrapping: content, "epoch": 3} if wrapping in ("model", "state_dict") else content, path)
    found = read_weights(path)
    read, sha256 = found.state, found.sha256
    assert read.keys() == state.keys()
    assert all(torch.equal(read[key], state[key]) for key in state)
    assert sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


class Evil:
    def __reduce__(self):
        return (exec, ("raise SystemExit('ran')",))


@pytest.mark.parametrize("kind", ["cut", "empty", "text", "pickle", "list", "missing", "folder"])
@pytest.mark.parametrize("ending", ["safetensors", "pt"])
def test_a_file_that_is_not_weights(tmp_path: Path, kind: str, ending: str):
    path = tmp_path / f"file.{ending}"
    state = {"a": torch.rand(100)}
    if kind == "cut":
        save_file(state, path) if ending == "safetensors" else torch.save(state, path)
        path.write_bytes(path.read_bytes()[:-100])
    elif kind == "folder":
        path.mkdir()
    elif kind == "list":
        torch.save([torch.rand(3)], path)
    elif kind != "missing":
        path.write_bytes({"empty": b"", "text": b"hello, world", "pickle": pickle.dumps(Evil())}[kind])
    with pytest.raises(ConfigError) as caught:
        read_weights(path)
    assert_one_line(caught.value, path)


def test_everything_is_accounted_for():
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 4))
    other: Any = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 7))
    state = other.state_dict()
    del state["1.num_batches_tracked"]
    report = load_weights(
        module, state, source="x.pt", sha256="ab" * 32, free={"2": "the head is newly initialised"}
    )
    assert report.loaded == 6
    assert report.left == {
        "2.weight": "shape [7, 3] in the file, [4, 3] in the module",
        "2.bias": "shape [7] in the file, [4] in the module",
    }
    assert report.fresh == {
        "1.num_batches_tracked": "a counter that older files do not have",
        "2.bias": "the head is newly initialised",
        "2.weight": "the head is newly initialised",
    }
    assert report.loaded + len(report.fresh) == len(module.state_dict())
    assert report.loaded + len(report.left) == len(state)
    assert torch.equal(module.state_dict()["0.weight"], other[0].weight)
    assert "\n" not in str(report)
    assert "6 tensors loaded" in str(report)
    assert report.sha256 == "ab" * 32


@pytest.mark.parametrize("change", ["missing", "shape", "spare"])
def test_a_name_that_should_have_matched_is_an_error_and_nothing_changes(change: str):
    module = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    state = {name: value + 1 for name, value in before.items()}
    if change == "missing":
        del state["0.weight"]
    elif change == "shape":
        state["0.weight"] = torch.zeros(3, 5)
    else:
        state["7.weight"] = torch.zeros(3, 5)
    with pytest.raises(ConfigError, match=r"x\.pt does not match the module") as caught:
        load_weights(module, state, source="x.pt")
    assert_one_line(caught.value, "7.weight is not in the module" if change == "spare" else "0.weight")
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_a_little_to_spare_is_reported():
    module = nn.Linear(100, 10)
    state = {**module.state_dict(), "mask_token": torch.zeros(5)}
    assert load_weights(module, state, source="x.pt").left == {"mask_token": "not in the module"}


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext", "test_efficientnet"])
def test_pretrained_from_a_local_file(tmp_path: Path, name: str):
    path = published(name, tmp_path)
    model = classifier({"name": name, "pretrained": str(path)})
    (report,) = model.loaded
    assert report.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert set(report.left.values()) == {"the head is newly initialised"}
    assert not report.fresh
    file = read_weights(path).state
    own = model.backbone.state_dict()
    assert report.loaded == len(own) == len(file) - len(report.left)
    for key, value in own.items():
        if key != "pos_embed":  # resized to 32 px
            assert torch.equal(value, file[key]), key


def test_a_position_embedding_is_resized(tmp_path: Path):
    path = published("test_vit", tmp_path)
    small: Any = timm_backbone("test_vit", 32, pretrained=str(path))
    file = read_weights(path).state
    assert small.pos_embed.shape != file["pos_embed"].shape
    assert small.pos_embed.shape[1] == 1 + (32 // 16) ** 2


def test_pretrained_under_a_cifar_stem(tmp_path: Path):
    path = published("resnet18", tmp_path)
    model: Any = timm_backbone("resnet18", 32, pretrained=str(path), stem="cifar")
    left = model.loaded.left
    assert left["conv1.weight"] == "shape [64, 3, 7, 7] in the file, [64, 3, 3, 3] in the module"
    assert left["fc.weight"] == "the head is newly initialised"
    assert model.loaded.loaded == len(model.state_dict()) - 1


def test_pretrained_with_smaller_patches(tmp_path: Path):
    path = published("test_convnext", tmp_path)
    model: Any = timm_backbone("test_convnext", 32, pretrained=str(path), patch=2, drop_path=0.1)
    assert "[24, 3, 2, 2] in the module" in model.loaded.left["stem.0.weight"]
    assert model.loaded.loaded == len(model.state_dict()) - 1


def test_a_vits_patches_are_resized(tmp_path: Path):
    path = published("test_vit", tmp_path)
    model: Any = timm_backbone("test_vit", 32, pretrained=str(path), patch=8)
    assert not model.loaded.fresh
    assert model.loaded.loaded == len(model.state_dict())
    assert model.patch_embed.proj.weight.shape[-2:] == (8, 8)
    assert model.pos_embed.shape[1] == 1 + (32 // 8) ** 2


@pytest.mark.parametrize("ending", ["pt", "safetensors"])
def test_torchvisions_file_gives_torchvisions_features(tmp_path: Path, ending: str):
    torch.manual_seed(3)
    theirs = torchvision.models.resnet18()
    for module in theirs.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean, module.running_var = (
                torch.randn(len(module.weight)),
                torch.rand(len(module.weight)) + 0.5,
            )
    path = tmp_path / f"resnet18.{ending}"
    save_file(theirs.state_dict(), path) if ending == "safetensors" else torch.save(theirs.state_dict(), path)
    ours = classifier({"name": "resnet18", "pretrained": str(path)})
    (report,) = ours.loaded
    assert report.left == {
        "fc.weight": "the head is newly initialised",
        "fc.bias": "the head is newly initialised",
    }
    assert not report.fresh
    theirs.fc = nn.Identity()
    images = torch.randn(4, 3, 64, 64)
    torch.testing.assert_close(ours.eval().backbone(images), theirs.eval()(images))


@pytest.mark.parametrize(("file", "name"), [("resnet34", "resnet18"), ("test_vit", "test_resnet")])
def test_weights_of_another_architecture(tmp_path: Path, file: str, name: str):
    path = published(file, tmp_path)
    with pytest.raises(ConfigError) as caught:
        timm_backbone(name, 32, pretrained=str(path))
    assert caught.value.path == ("model", "backbone", "pretrained")
    assert_one_line(caught.value, path, "does not match")


def test_a_truncated_file_of_pretrained_weights(tmp_path: Path):
    path = published("test_resnet", tmp_path)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ConfigError) as caught:
        timm_backbone("test_resnet", 32, pretrained=str(path))
    assert_one_line(caught.value, path, "model.backbone.pretrained")


def no_network(*_: object, **__: object) -> None:
    raise socket.gaierror(-2, "Name or service not known")


@pytest.mark.parametrize("name", ["resnet18", "test_vit"])
def test_no_network_and_no_file_is_said_quickly(monkeypatch: pytest.MonkeyPatch, name: str):
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    monkeypatch.setattr(socket.socket, "connect", no_network)
    begun = time.monotonic()
    with pytest.raises(ConfigError) as caught:
        BACKBONES.spec({"name": name, "pretrained": True}).build(32)
    assert time.monotonic() - begun < 10
    tag = {"resnet18": "a1_in1k", "test_vit": "r160_in1k"}[name]
    assert_one_line(
        caught.value,
        f"https://huggingface.co/timm/{name}.{tag}/resolve/main/model.safetensors",
        weights_folder() / f"{name}.{tag}.safetensors",
        "model.backbone.pretrained=/path/to/model.safetensors",
    )


def test_no_network_and_an_address_of_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    with pytest.raises(ConfigError) as caught:
        fetch_weights("net.tag", None, "https://example.org/weights/net-12.pth")
    assert_one_line(caught.value, "https://example.org/weights/net-12.pth", weights_folder() / "net.tag.pth")
    with pytest.raises(ConfigError, match="publishes no weights"):
        fetch_weights("net.tag", None, None)


def test_a_file_put_where_the_error_says_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("CIFARLAB_CACHE", str(tmp_path))
    path = published("resnet18", tmp_path)
    weights_folder().mkdir()
    path.rename(weights_folder() / "resnet18.a1_in1k.safetensors")
    assert "the head is newly initialised" in str(timm_backbone("resnet18", 32, pretrained=True).loaded)


def checkpoint(model: nn.Module, folder: Path, name: str = "best.pt") -> Path:
    folder.mkdir(exist_ok=True)
    torch.save({"format": 1, "model": model.state_dict(), "epoch": 3}, folder / name)
    return folder / name


def test_init_from_a_run_with_the_same_classes(tmp_path: Path):
    other = classifier(seed=1, normalize="imagenet")
    path = checkpoint(other, tmp_path / "run")
    checkpoint(classifier(seed=2), tmp_path / "run", "last.pt")
    model = classifier(seed=0, init=str(tmp_path / "run"))
    (report,) = model.loaded
    assert report.source == str(path)
    assert torch.equal(model.head.fc.weight, other.head.fc.weight)
    for key, value in model.backbone.state_dict().items():
        assert torch.equal(value, other.backbone.state_dict()[key]), key
    assert model.mean.abs().sum() == 0
    assert set(report.fresh) == {"mean", "std"}


def test_init_leaves_a_head_of_other_classes(tmp_path: Path):
    path = checkpoint(classifier(classes=9, seed=1), tmp_path)
    model = classifier(classes=5)
    head = model.head.fc.weight.clone()
    for source in (path, tmp_path):
        report = init_from(model, source)
        assert report.fresh["head.fc.weight"] == "the head is newly initialised"
        assert report.left == report.fresh
        assert set(report.left) == {"mean", "std", "head.fc.weight", "head.fc.bias"}
        assert report.loaded + len(report.left) == len(torch.load(path)["model"])
        assert torch.equal(model.head.fc.weight, head)


def test_init_leaves_a_head_of_as_many_other_classes(tmp_path: Path):
    other = classifier(seed=1)
    state = {"format": 1, "model": other.state_dict(), "classes": [*reversed(other.classes)]}
    torch.save(state, tmp_path / "best.pt")
    report = init_from(classifier(seed=0), tmp_path / "best.pt")
    assert report.fresh["head.fc.weight"] == "the head is newly initialised"
    torch.save({**state, "classes": list(other.classes)}, tmp_path / "best.pt")
    assert "head.fc.weight" not in init_from(classifier(seed=0), tmp_path / "best.pt").fresh


def test_a_run_may_give_a_backbone_too(tmp_path: Path):
    other = classifier(seed=1)
    path = checkpoint(other, tmp_path)
    model: Any = timm_backbone("test_resnet", 32, pretrained=str(path))
    assert torch.equal(model.conv1[0].weight, other.backbone.conv1[0].weight)


def test_init_errors(tmp_path: Path):
    checkpoint(classifier("test_vit"), tmp_path / "vit")
    torch.save(timm.create_model("test_resnet").state_dict(), tmp_path / "plain.pt")
    for name in ("empty", "seeds"):
        (tmp_path / name).mkdir()
    checkpoint(classifier(), tmp_path / "seeds" / "0")
    checkpoint(classifier(), tmp_path / "unfinished", "last.pt")
    for name, words in (
        ("vit", "does not match the module"),
        ("plain.pt", "model.backbone.pretrained="),
        ("empty", "has no best.pt"),
        ("seeds", "did you mean .*/seeds/0"),
        ("unfinished", "has not finished an epoch"),
        ("nowhere", "no such file"),
    ):
        with pytest.raises(ConfigError, match=words) as caught:
            classifier(init=str(tmp_path / name))
        assert caught.value.path == ("model", "init")
        assert_one_line(caught.value, tmp_path / name)


def test_init_replaces_pretrained_weights_which_are_not_read(tmp_path: Path):
    other = classifier(seed=1)
    path = checkpoint(other, tmp_path)
    model = classifier({"name": "test_resnet", "pretrained": "/nowhere"}, init=str(path))
    (report,) = model.loaded
    assert report.source == str(path)
    assert report.loaded + len(report.fresh) == len(model.state_dict())
    for key, value in model.backbone.state_dict().items():
        assert torch.equal(value, other.backbone.state_dict()[key]), key


def test_a_checkpoint_that_replaces_all_needs_no_initial_weights():
    model = build_classifier(
        config({"name": "resnet18", "pretrained": "/nowhere"}, init="/nowhere"), 32, 5, initial=False
    )
    assert model.loaded == ()
