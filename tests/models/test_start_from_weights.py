"""Weights by the command line: what a run starts from, and what is wrong with a file in one line."""

import json
import os
import random
import shutil
import signal
import socket
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from cifarlab.core import checkpoints
from cifarlab.engine.step import Engine
from tests.tiny import TINY, once

SMALL = [*TINY, "model.backbone={name: test_resnet}", "train.epochs=1"]
CUTS = 3


@pytest.fixture
def train(cifarlab, tmp_path, monkeypatch):
    """Train by the command line in an empty folder: (exit status, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    return lambda *words, recipe="demo": cifarlab("train", recipe, *once(*SMALL, *words))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a finished run."""
    from tests.tiny import train_tiny

    return train_tiny(tmp_path_factory.mktemp("runs") / "first" / "0", *SMALL[len(TINY) :])[0].folder


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Files of whole models as timm publishes them, by name and ending."""
    folder = tmp_path_factory.mktemp("weights")
    for name in ("test_resnet", "test_vit"):
        state = timm.create_model(name).state_dict()
        save_file(state, folder / f"{name}.safetensors")
        torch.save(state, folder / f"{name}.pt")
    return folder


def weights_of(run: str) -> list[dict]:
    return json.loads(Path(run, "env.json").read_text())["weights"]


def assert_refused(answer: tuple[int, str, str], *words: object) -> None:
    """A mistake: status 2, one line, and no folder."""
    status, out, err = answer
    assert status == 2, err
    assert err.startswith("error: "), err
    assert len(err.splitlines()) == 1, err
    assert "Traceback" not in out + err
    for word in words:
        assert str(word) in err
    assert not Path("runs").exists()


@pytest.mark.parametrize("ending", ["safetensors", "pt"])
def test_a_file_cut_off_anywhere(train, files, ending):
    whole = (files / f"test_resnet.{ending}").read_bytes()
    broken = Path(f"broken.{ending}")
    places = random.Random(ending).sample(range(1, len(whole)), CUTS)
    for size in (0, *places, len(whole) - 1):
        broken.write_bytes(whole[:size])
        answer = train(f"model.backbone.pretrained={broken}")
        what = "is cut off or damaged" if size else "is empty"
        assert_refused(answer, f"model.backbone.pretrained: {broken}: {what}; copy or download it again")


def test_a_run_whose_checkpoint_is_cut_off_anywhere(train, finished):
    whole = (finished / "best.pt").read_bytes()
    Path("broken").mkdir()
    for size in (0, *random.Random(0).sample(range(1, len(whole)), CUTS), len(whole) - 1):
        Path("broken/best.pt").write_bytes(whole[:size])
        what = "is cut off or damaged" if size else "is empty"
        assert_refused(train("model.init=broken"), f"model.init: broken/best.pt: {what}")


@pytest.mark.parametrize("ending", ["safetensors", "pt"])
def test_weights_of_another_architecture(train, files, ending):
    path = files / f"test_vit.{ending}"
    answer = train(f"model.backbone.pretrained={path}")
    assert_refused(answer, f"model.backbone.pretrained: {path} does not match")


def test_a_run_of_another_architecture(train, finished):
    answer = train("model.backbone={name: test_vit}", f"model.init={finished}")
    assert_refused(answer, f"model.init: {finished}/best.pt does not match the module")


def test_a_file_that_is_no_run(train, files):
    path = files / "test_resnet.pt"
    assert_refused(train(f"model.init={path}"), f"set model.backbone.pretrained={path}")
    assert_refused(train("model.init=nowhere"), "model.init: nowhere: no such file")


def test_another_number_of_classes_leaves_the_head_and_says_so(train, finished, files):
    status, out, err = train("data.classes=20", "data.val=0.1", f"model.init={finished}", "--name", "init")
    assert status == 0, err
    assert "not loaded head.fc.bias, head.fc.weight: the head is newly initialised" in " ".join(out.split())
    (report,) = weights_of("runs/init/0")
    assert report["fresh"]["head.fc.weight"] == "the head is newly initialised"
    assert train(f"model.backbone.pretrained={files / 'test_resnet.pt'}", "--name", "file")[0] == 0
    (report,) = weights_of("runs/file/0")
    assert report["left"]["fc.weight"] == "the head is newly initialised"


def test_a_run_that_has_not_finished_an_epoch(train, monkeypatch):
    step = Engine.step

    def interrupted(self, positions, epoch, number):
        step(self, positions, epoch, number)
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Engine, "step", interrupted)
    assert train("--name", "first")[0] == 128 + signal.SIGTERM
    monkeypatch.setattr(Engine, "step", step)
    shutil.move("runs", "earlier")
    answer = train("model.init=earlier/first/0")
    assert_refused(answer, "has not finished an epoch")
    assert train("model.init=earlier/first/0/last.pt")[0] == 0
    began = checkpoints.load_checkpoint(Path("earlier/first/0/last.pt"), ())["engine"]["model"]
    (report,) = weights_of("runs/demo/0")
    assert report["loaded"] + len(report["fresh"]) == len(began)


def test_pretrained_weights_are_not_needed_where_a_run_replaces_them(train, finished, monkeypatch):
    """What the recipe says of ImageNet's weights, on a machine that has none and no network."""

    def no_network(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    words = ["model.backbone={name: test_resnet, pretrained: true}", "data.augment=null"]
    assert_refused(train(*words, recipe="resnet18_pretrained"), "model.backbone.pretrained: the weights of")
    status, _, err = train(*words, f"model.init={finished}", recipe="resnet18_pretrained")
    assert status == 0, err
    env = json.loads(Path("runs/resnet18_pretrained/0/env.json").read_text())
    assert any(note.startswith("model.backbone.pretrained is ignored") for note in env["notes"])
    (report,) = env["weights"]
    state = checkpoints.load_checkpoint(finished / "best.pt", ())["model"]
    assert report["loaded"] == len(state) - 2
    assert set(report["fresh"]) == {"mean", "std"}
    assert set(report["left"]) == {"mean", "std"}
    assert len(report["sha256"]) == 64
