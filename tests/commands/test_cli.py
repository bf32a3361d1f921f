import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from cifarlab import cli
from cifarlab.commands.shared import app
from tests.tiny import TINY, once


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder of runs with two seeds of a tiny run."""
    runs = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            sys,
            "argv",
            ["cifarlab", "train", "demo", *TINY, "--seeds", "2", "--name", "a", "--runs", str(runs)],
        )
        with pytest.raises(SystemExit) as stop:
            cli.main()
    assert not stop.value.code
    return runs


def test_seeds_make_runs_side_by_side(trained, cifarlab):
    assert [
        yaml.safe_load((trained / "a" / s / "config.yaml").read_text())["train"]["seed"] for s in "01"
    ] == [0, 1]
    status, out, _ = cifarlab("train", "demo", *TINY, "--seeds", 2, "--name", "a", "--runs", trained)
    assert status == 0
    assert out.count("is finished") == 2
    assert "val top1" in out
    assert "over 2 seeds" in out


def test_a_terminal_less_run_prints_one_line_an_epoch(cifarlab, tmp_path):
    status, out, _ = cifarlab("train", "demo", *TINY, "--runs", tmp_path)
    assert status == 0
    lines = [line for line in out.splitlines() if line.startswith("epoch ")]
    assert len(lines) == 2
    assert all(word in lines[0] for word in ("loss", "train", "val", "lr", "img/s", "left"))
    assert "\x1b" not in out


def test_list(cifarlab):
    status, out, _ = cifarlab("list")
    assert status == 0
    assert all(word in out for word in ("resnet18_baseline", "44.26", "not measured yet"))
    rows = {row["name"]: row for row in json.loads(cifarlab("list", "--json")[1])}
    assert rows["resnet18_pretrained_arcface_224x224"]["published"] == 79.57


def test_show(cifarlab):
    plain = yaml.safe_load(cifarlab("show", "resnet18_baseline")[1])
    assert plain == json.loads(cifarlab("show", "resnet18_baseline", "--json")[1])
    assert plain["optim"]["lr"] == 1e-3
    out = cifarlab("show", "resnet18_baseline_wd01", "--diff")[1]
    assert out.splitlines()[1:] == ["  optim.weight_decay: 0.0001 -> 0.1"]
    assert yaml.safe_load(cifarlab("show", "resnet18_baseline", "optim.lr=0.5")[1])["optim"]["lr"] == 0.5


def test_show_says_which_labels_a_recipe_moves(cifarlab, tmp_path):
    mine = tmp_path / "demo.yaml"
    mine.write_text("base: demo\ndata: {augment: {flip: {before: crop}}}\n")
    out = cifarlab("show", mine, "--diff")[1]
    assert out.startswith(f"{mine} differs from demo in:")
    assert out.splitlines()[1:] == ["  data.augment: order [crop, flip] -> order [flip, crop]"]
    changes = json.loads(cifarlab("show", mine, "--diff", "--json")[1])["changes"]
    assert changes == {"data.augment": {"base": ["crop", "flip"], "recipe": ["flip", "crop"]}}


def test_parts(cifarlab):
    out = cifarlab("parts")[1]
    assert all(word in out for word in ("arcface (margin, gradient, warmup): ", "any timm model"))
    assert "margin: float" in cifarlab("parts", "arcface")[1]
    listing = json.loads(cifarlab("parts", "objective", "--json")[1])
    assert list(listing) == ["objective"]
    assert all(part["doc"] for part in listing["objective"])


def test_eval_scores_a_split_and_writes_it_down(trained, cifarlab):
    run = trained / "a" / "0"
    status, out, _ = cifarlab("eval", run, "--split", "test")
    assert status == 0
    assert "top-1" in out
    assert "100 pictures" in out
    scores = json.loads(cifarlab("eval", run, "--split", "test", "--json")[1])
    assert json.loads((run / "summary.json").read_text())["test_top1"] == scores["top1"]
    kept = json.loads((run / "summary.json").read_text())["val_top1"]
    assert json.loads(cifarlab("eval", run, "--json")[1])["top1"] == pytest.approx(kept)
    measured = ["top1", "top5", "loss", "nll", "ece", "temperature", "nll_calibrated", "ece_calibrated",
                "forward_passes", "images_per_second"]  # fmt: skip
    after = ["image_size", "pictures", "remark", "written", "not_written", "test_opened", "warnings"]
    assert [*scores] == ["run", "split", *measured, "tta", *after]
    views = "{name: multi_crop, pixels: 2}"
    scores = json.loads(cifarlab("eval", run, "--tta", views, "--json")[1])
    assert [*scores["tta"]] == ["name", "pixels", "mean", *measured]


def test_predict(trained, cifarlab, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, mode in (("a.png", "RGB"), ("b.jpg", "L"), ("c.webp", "RGBA")):
        Image.fromarray(np.full((40, 60), 90, np.uint8)).convert(mode).save(folder / name)
    answers = json.loads(cifarlab("predict", trained / "a" / "0", folder, folder / "a.png", "--json")[1])
    assert [Path(answer["picture"]).name for answer in answers] == ["a.png", "b.jpg", "c.webp", "a.png"]
    assert all(len(answer["classes"]) == 5 for answer in answers)
    assert answers[0]["probabilities"] == answers[3]["probabilities"]
    assert cifarlab("predict", trained / "a" / "0", folder / "a.png")[1].count("%") == 5


def test_load_gives_a_module_that_takes_pictures(trained):
    import cifarlab

    model = cifarlab.load(trained / "a" / "0")
    assert not model.training
    assert len(model.classes) == 100
    pictures = torch.randint(0, 256, (3, 3, 50, 40), dtype=torch.uint8)
    with torch.inference_mode():
        logits = model(pictures).logits
        assert logits.shape == (3, 100)
        assert torch.allclose(logits, model(pictures.float() / 255).logits)


def test_plot(trained, cifarlab, tmp_path):
    status, out, _ = cifarlab(
        "plot", trained / "a" / "0", trained / "a" / "1", "--out", tmp_path / "curves.png"
    )
    assert status == 0
    with Image.open(out.strip()) as picture:
        assert picture.size[0] > 1000
    assert cifarlab("plot", trained / "a" / "0", "--no-gallery", "--out", tmp_path / "c.svg")[0] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "resnet18_basline"], "did you mean resnet18_baseline?"),
        (["train", "nothere.yaml"], "nothere.yaml: no such recipe file"),
        (["train", "demo", "optim.ler=1"], "optim.ler: unknown; did you mean lr?"),
        (["train", "demo", "optim.lr"], "write key=value"),
        (["train", "demo", "--name", "../up"], "a name, not a path"),
        (["train", "demo", "--seeds", "2", "train.seed=1"], "contradict"),
        (["train", "demo", "--seeds", "3", "train.seed=0"], "contradict"),
        (["train", "demo", "--seeds", "3", "train={seed: 0}"], "contradict"),
        (
            ["train", "resnet18_baseline", "data.root=/nowhere/at/all"],
            "data.root: /nowhere/at/all does not exist",
        ),
        (
            [
                "train",
                "resnet18_pretrained",
                "model.backbone.pretrained=/no/file.pt",
                "data.dataset=synthetic",
            ],
            "/no/file.pt",
        ),
        (["train", "demo", "data.dataset=folder"], "data.root"),
        (["eval", "runs/none"], "runs/none: no such run"),
        (["eval", "runs/none", "--split", "tset"], "'tset' is not one of 'train', 'val', 'test'"),
        (["analyze", "runs/none", "--split", "train"], "'train' is not one of 'val', 'test'"),
        (
            ["eval", "runs/none", "--mean", "logits"],
            "mean: logits needs views to average; name them with tta",
        ),
        (["eval", "runs/none", "--mean", "nonsense"], "is not one of 'logits', 'probabilities'"),
        (["predict", "runs/none", "x.png"], "x.png: no such file"),
        (
            ["train", "demo", "data.multi_scale={sizes: [32, 32]}"],
            "data.multi_scale.sizes: expected at least one size",
        ),
        (["train", "demo", "data.multi_scale={sizes: [32], pre: batch}"], "did you mean per?"),
        (["train", "demo", "data.multi_scale.sizes=[4]"], "data.multi_scale.sizes.0: "),
        (["parts", "objectiv"], "did you mean objective?"),
        (["plot", "runs/none"], "runs/none"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(cifarlab, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    status, out, err = cifarlab(*arguments)
    assert status == 2, err
    assert message in err
    assert err.startswith("error: "), err
    assert len(err.splitlines()) == 1, err
    assert "Traceback" not in out + err
    assert list(tmp_path.iterdir()) == [], "nothing half-made is left"


def test_debug_shows_the_traceback(cifarlab):
    status, _, err = cifarlab("train", "nothere", "--debug")
    assert status == 2
    assert "Traceback" in err


def test_a_failure_is_status_1(cifarlab, tmp_path):
    words = once(*TINY, "optim.lr=1e30", "train.grad_clip=null")
    status, _, err = cifarlab("train", "demo", *words, "--runs", tmp_path)
    assert status == 1
    assert err.startswith("error: the loss was not finite")


def test_what_nobody_foresaw_is_one_line_and_status_1(cifarlab, monkeypatch):
    def breaks(*_):
        raise KeyError("surprise")

    monkeypatch.setattr("cifarlab.config.recipes.all_recipes", breaks)
    status, _, err = cifarlab("list")
    assert status == 1
    assert "KeyError" in err
    assert "--debug" in err
    assert len(err.splitlines()) == 1


def test_a_recipe_of_ones_own(cifarlab, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "parts.py").write_text(
        "from cifarlab import LOSSES\n\n"
        "@LOSSES.register\n"
        "def sharp(batch, output, *, gamma: float = 2.0):\n"
        '    """Focal loss."""\n'
        "    logp = output.logits.log_softmax(-1)\n"
        "    return -(batch.targets * (1 - logp.exp()) ** gamma * logp).sum(-1).mean()\n"
    )
    (tmp_path / "mine.yaml").write_text(
        "base: demo\nimports: [parts.py]\nobjective: {cross_entropy: null, sharp: {gamma: 1.5}}\n"
    )
    tiny = [text.replace("imports=[", f"imports=[{tmp_path / 'parts.py'}, ") for text in TINY]
    assert cifarlab("train", "mine.yaml", *tiny)[0] == 0
    rows = (tmp_path / "runs" / "mine" / "0" / "metrics.jsonl").read_text().splitlines()
    assert "train/loss/sharp" in json.loads(rows[0])
    out = cifarlab("show", "mine.yaml", "--diff")[1]
    assert "objective.sharp" in out
    assert "objective.cross_entropy" in out
    assert cifarlab("eval", "runs/mine/0")[0] == 0


def test_help_is_complete(cifarlab):
    commands = [each.name or each.callback.__name__ for each in app.registered_commands]
    assert {"train", "check", "compare", "report"} <= {*commands}
    for command in commands:
        status, out, _ = cifarlab(command, "--help")
        assert status == 0
        assert "Usage:" in out
    assert "--debug" in cifarlab("--help")[1]
