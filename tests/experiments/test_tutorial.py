"""The tutorial's eleven rows, each trained from end to end on a few real pictures."""

import pytest
import torch

from cifarlab.experiments.tutorial import experiments
from cifarlab.runs.folder import Run
from cifarlab.runs.model import load
from cifarlab.training.loop import train_run
from tests.settings import row


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Files with the names and shapes of ImageNet's weights; the numbers are random."""
    import timm

    folder = tmp_path_factory.mktemp("weights")
    for name in ("resnet18", "resnet50"):
        torch.save(timm.create_model(name).state_dict(), folder / f"{name}.pt")
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture
def trained(cifar100_root, small_cifar100_root, weights, runs):
    """Train a recipe, shortened, unless it is trained: its run and summary. The first reads all pictures."""

    def trained(name):
        backbone = row(name).dump()["model"]["backbone"]
        root = cifar100_root if name == "resnet18_baseline" else small_cifar100_root
        overrides = [f"data.root={root}", "data.limit=12", "data.val=10", "data.batch_size=6"]
        overrides += ["train.epochs=1", "train.device=cpu"]
        if backbone["pretrained"]:
            overrides.append(f"model.backbone.pretrained={weights / backbone['name']}.pt")
        run = Run(runs / name / "0", recipe=name, name=name)
        return run, train_run(row(name, *overrides), run)

    return trained


@pytest.mark.parametrize("name", experiments())
def test_it_trains_on_the_real_cifar100(name, trained):
    if name.endswith("_kd"):
        trained("resnet50_pretrained_arcface_224x224")
    run, summary = trained(name)
    assert summary.epochs == summary.chosen_epoch == 1
    assert 0 <= summary.val_top1 <= 1
    model, config = load(run.folder), run.plain_config()
    assert model.image_size == config["data"]["image_size"] == (224 if "224" in name else 32)
    assert model(torch.zeros(1, 3, 32, 32)).logits.shape == (1, 100)
    if name.endswith("_kd"):
        (teacher,) = summary.distillation.teachers
        assert teacher.path.endswith("resnet50_pretrained_arcface_224x224/0/best.pt")
        assert summary.distillation.terms["distill"].gradient_norm > 0
