"""Runs that train at several sizes, and runs that are asked at another size than their own."""

import json
import os
import signal
import sys

import pytest
import torch
from PIL import Image
from rich.console import Console

from cifarlab import cli, load
from cifarlab.core.errors import ConfigError
from cifarlab.engine.step import Engine
from cifarlab.evaluation.predict import predict
from cifarlab.evaluation.score import evaluate
from cifarlab.runs.folder import Run
from cifarlab.runs.signals import Interrupted
from cifarlab.training.loop import train_run
from cifarlab.training.progress import TrainingProgress
from cifarlab.training.setup import prepare
from tests.settings import row
from tests.tiny import tiny_config, train_tiny
from tests.training.test_loop import assert_same_run

SCALES = {
    "batch": "data.multi_scale={sizes: [24, 40]}",
    "stage": "data.multi_scale={sizes: [16, 24, 32], per: stage}",
    "sample": "data.multi_scale={sizes: [24, 32, 40], per: sample}",
}
STATEFUL = ("data.mix={mixup: {}}", "data.augment.color_jitter={p: 0.5}")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """{per: (run, summary)}."""
    folder = tmp_path_factory.mktemp("runs")
    return {per: train_tiny(folder / per / "0", scale, *STATEFUL) for per, scale in SCALES.items()}


@pytest.fixture
def command(monkeypatch, capsys):
    """Run a command in this process: (exit status, stdout, stderr)."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["cifarlab", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return stop.value.code or 0, *capsys.readouterr()

    return run


@pytest.mark.parametrize("per", SCALES)
@pytest.mark.parametrize("at", [3, 6])
def test_a_run_goes_on_with_the_sizes_it_would_have_had(trained, tmp_path, monkeypatch, per, at):
    """Stopped within the first epoch, and at its end."""
    step = Engine.step

    def stops(self, positions, epoch, number):
        step(self, positions, epoch, number)
        if number == at:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Engine, "step", stops)
    with pytest.raises(Interrupted):
        train_tiny(tmp_path / "run", SCALES[per], *STATEFUL)
    monkeypatch.undo()
    run, _ = train_tiny(tmp_path / "run", SCALES[per], *STATEFUL)
    assert_same_run(trained[per][0], run)


def test_the_engine_shows_each_picture_at_the_size_of_its_place():
    """The sizes of the augmented pictures of two epochs, by the sample's position in the split."""
    engine = prepare(tiny_config("data.multi_scale={sizes: [16, 24], per: sample}")).engine
    plan, seen = engine.plan, []
    engine.model.backbone.register_forward_hook(lambda module, given, _: seen.append(given[0].shape))
    engine.model.train()
    for number in range(plan.total_steps):
        epoch = number // plan.steps_per_epoch
        engine.step(engine.order(epoch), epoch, number)
    assert {(shape[0], shape[2]) for shape in seen} == {(16, 16), (16, 24), (4, 16), (4, 24)}
    assert sum(shape[0] for shape in seen if shape[2] == 16) == len(engine.train_split)


def test_the_engine_shows_the_sizes_in_turn_each_for_its_share_of_the_run():
    engine = prepare(tiny_config(SCALES["stage"], "train.epochs=3")).engine
    plan, seen = engine.plan, []
    engine.model.backbone.register_forward_hook(lambda module, given, _: seen.append(given[0].shape[-1]))
    engine.model.train()
    for number in range(plan.total_steps):
        epoch = number // plan.steps_per_epoch
        engine.step(engine.order(epoch), epoch, number)
    assert seen == [16] * 7 + [24] * 7 + [32] * 7


def test_the_summary_scores_each_size(trained):
    run, summary = trained["sample"]
    by_size = summary.val_top1_by_image_size
    assert list(by_size) == ["24", "32", "40"]
    assert by_size["32"] == summary.val_top1
    assert list(trained["batch"][1].val_top1_by_image_size) == ["24", "32", "40"], "image_size is there"
    for size, top1 in by_size.items():
        assert evaluate(run.folder, split="val", device="cpu", image_size=int(size)).top1 == pytest.approx(
            top1
        )


def test_the_last_lines_say_the_scores(trained, capsys):
    run, summary = trained["sample"]
    TrainingProgress(Console(width=300)).finish(summary, str(run))
    shown = ", ".join(f"{top1:.2%} at {size} px" for size, top1 in summary.val_top1_by_image_size.items())
    assert capsys.readouterr().out.splitlines()[-1] == f"{run}: val {shown}"


def test_without_validation_pictures_no_size_has_a_score(tmp_path):
    _, summary = train_tiny(tmp_path / "run", SCALES["batch"], "data.val=0", "train.select=test")
    assert summary.val_top1_by_image_size is None


def test_eval_at_another_size_leaves_the_test_score_alone(trained, command):
    run, _ = trained["batch"]
    own = json.loads(command("eval", run, "--split", "test", "--json")[1])
    status, out, _ = command("eval", run, "--split", "test", "--image-size", 64)
    assert status == 0
    assert "64 px" in out
    assert "the run's own size is 32" in out
    assert "by_image_size of the summary" in out
    other = json.loads(command("eval", run, "--split", "test", "--image-size", 16, "--json")[1])
    assert (own["image_size"], other["image_size"]) == (32, 16)
    summary = run.finished()
    assert summary.test_top1 == own["top1"]
    assert list(summary.by_image_size) == ["64", "16"]
    assert summary.by_image_size["16"].test_top1 == other["top1"]
    out = command("eval", run, "--split", "test", "--image-size", 32)[1]
    assert "by_image_size of the summary" not in out
    assert list(json.loads(run.summary_path.read_text())["by_image_size"]) == ["64", "16"]


def test_eval_at_a_size_is_the_model_asked_at_it(trained):
    """Against the classifier itself, picture by picture."""
    run, _ = trained["sample"]
    model = load(run.folder)
    val = prepare(tiny_config(SCALES["sample"])).splits.val
    assert val is not None
    with torch.inference_mode():
        images, labels, _ = val.gather(torch.arange(len(val)))
        right = torch.cat([model(image[None], image_size=16).logits for image in images]).argmax(-1) == labels
    top1 = evaluate(run.folder, split="val", device="cpu", image_size=16).top1
    # In the run's own precision, which may be bfloat16: a picture in a hundred may change sides.
    assert top1 == pytest.approx(right.float().mean().item(), abs=0.02)


def test_predict_at_a_size(trained, command, tmp_path):
    run, _ = trained["sample"]
    Image.effect_noise((50, 50), 60).convert("RGB").save(tmp_path / "a.png")
    [own] = predict(run.folder, [tmp_path / "a.png"], device="cpu")
    [answer] = json.loads(command("predict", run, tmp_path / "a.png", "--image-size", 64, "--json")[1])
    assert answer["probabilities"] != [*own.probabilities]
    assert predict(run.folder, [tmp_path / "a.png"], device="cpu", image_size=32) == [own]


VIT = ("model.backbone={name: vit_tiny_patch16_224}", "data.limit=8", "data.batch_size=8", "train.epochs=1")


def test_a_size_that_the_backbone_cannot_take(tmp_path, command):
    with pytest.raises(ConfigError) as error:
        train_tiny(tmp_path / "runs" / "0", *VIT, "data.multi_scale={sizes: [32, 64]}")
    assert str(error.value).startswith(
        "data.multi_scale.sizes: vit_tiny_patch16_224 cannot take pictures of 64 px"
    )
    assert not (tmp_path / "runs").exists(), "nothing is made before training"
    run, _ = train_tiny(tmp_path / "vit" / "0", *VIT)
    before = run.summary_path.read_text()
    for name, more in (("eval", ["--split", "test"]), ("predict", [tmp_path])):
        Image.new("RGB", (20, 20)).save(tmp_path / "a.png")
        status, _, err = command(name, run, *more, "--image-size", 64)
        assert status == 2
        assert err.startswith("error: image_size: vit_tiny_patch16_224 cannot take pictures of 64 px (")
        assert len(err.splitlines()) == 1
    assert run.summary_path.read_text() == before


def test_a_multi_scale_without_effect_is_named():
    def warnings(scale):
        return [line for line in prepare(tiny_config(scale)).remarks.warnings if "multi_scale" in line]

    assert warnings("data.multi_scale={sizes: [32]}") == ["data.multi_scale has no effect here"]
    assert warnings("data.multi_scale={sizes: [24]}") == []
    assert warnings("data.multi_scale={sizes: [24], per: sample}") == [
        "data.multi_scale.per has no effect here"
    ]
    assert warnings(SCALES["sample"]) == warnings("data.multi_scale=null") == []


@pytest.mark.parametrize(
    "name", ["resnet18_pretrained_arcface_mst", "as_run/resnet18_pretrained_arcface_mst"]
)
def test_the_tutorials_row_trains_on_real_pictures(name, small_cifar100_root, tmp_path):
    """Whole but for the weights, the length and the number of pictures."""
    options = [
        f"data.root={small_cifar100_root}", "data.limit=24", "data.val=20", "data.batch_size=12",
        "train.select=val", "model.backbone={name: resnet18, pretrained: false}", "train.epochs=1",
        "train.device=cpu",
    ]  # fmt: skip
    run = Run(tmp_path / "run")
    summary = train_run(row(name, *options), run)
    assert list(summary.val_top1_by_image_size) == ["32", "64"]
    with torch.inference_mode():
        assert load(run.folder)(torch.rand(2, 3, 32, 32), image_size=64).logits.shape == (2, 100)


def test_pictures_are_kept_at_their_own_size(small_cifar100_root):
    """No copy of the data set at 224 px, whatever the model sees."""
    config = tiny_config(
        "data.dataset=cifar100", f"data.root={small_cifar100_root}", "data.image_size=224", "data.limit=100",
        "data.multi_scale={sizes: [160, 224]}",
    )  # fmt: skip
    splits = prepare(config).splits
    assert splits.val is not None
    assert splits.train.images.shape[-2:] == splits.val.images.shape[-2:] == (32, 32)
