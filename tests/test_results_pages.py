"""The scripts that write docs/results/, on tiny runs."""

import importlib
import itertools
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from benchmarks import first_ten_epochs, synthetic_pictures
from scipy import stats

from cifarlab.runs.folder import Run
from tests.tiny import TINY, train_tiny

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("script", "files"),
    [
        (first_ten_epochs, ["first_ten_epochs.md", "first_ten_epochs.png"]),
        (synthetic_pictures, ["synthetic.md", "synthetic.jpg", "synthetic.png"]),
    ],
)
def test_a_script_trains_and_writes_its_page(script, files, tmp_path, monkeypatch):
    tiny = [text for text in TINY if not text.startswith(("data.val", "train.epochs"))]
    tiny += ["data.val=100"] if script is synthetic_pictures else ["data.augment=null"]
    overrides = [word for text in tiny for word in ("--override", text)]
    out = tmp_path / "out"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["script", "--epochs", "2", "--out", str(out), *overrides])
    script.main()
    assert sorted(path.name for path in (out / "docs" / "results").iterdir()) == sorted(files)
    page = (out / "docs" / "results" / files[0]).read_text()
    figures = json.loads(next((out / "benchmarks" / "results").iterdir()).read_text())
    shown = "2f" if script is first_ten_epochs else "1f"
    scores = [result.get("summary", result).get("test_top1") for result in figures.values()]
    assert all(f"{100 * score:.{shown}}" in page for score in scores if score is not None)
    assert any(score is not None for score in scores)


@pytest.fixture
def study(tmp_path, monkeypatch):
    """Run a study of two seeds on tiny runs: (page, figures)."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    train_tiny(tmp_path / "init" / "0")

    def run(name, *options):
        init = [] if name in ("ladder", "embeddings") else ["--init", str(tmp_path / "init" / "0")]
        words = ["script", *init, "--seeds", "2", "--epochs", "2"]
        tiny = [text for text in TINY if not text.startswith("train.epochs")]
        overrides = [word for text in tiny for word in ("--override", text)]
        monkeypatch.setattr(sys, "argv", [*words, "--runs", str(tmp_path / "runs"), *overrides, *options])
        monkeypatch.chdir(tmp_path)
        importlib.import_module(name).main()
        page = (tmp_path / "docs" / "results" / f"{name}.md").read_text()
        assert (tmp_path / "docs" / "results" / f"{name}.png").stat().st_size > 10_000
        text = (tmp_path / "benchmarks" / "results" / f"{name}.json").read_text()
        assert str(tmp_path) not in page + text
        return page, json.loads(text)

    return lambda name, *options: run(name, "--out", str(tmp_path), *options)


def test_a_difference_is_paired_by_seed(study):
    page, figures = study("transfer")
    arms = figures["arms"]
    assert [[run["seed"] for run in runs] for runs in arms.values()] == [[0, 1], [0, 1]]
    scratch, started = ([run["test_top1"] for run in arms[name]] for name in arms)
    differences = [b - a for a, b in zip(scratch, started, strict=True)]
    found = figures["differences"]["test"]
    assert found["mean"] == pytest.approx(np.mean(differences))
    assert f"{100 * found['mean']:+.2f} [" in page
    assert all(run["weights_sha256"] for run in arms["from Tiny-ImageNet"])
    assert not any(run["weights_sha256"] for run in arms["from scratch"])


def test_the_interval_is_students(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    ours, others = [0.31, 0.35, 0.33, 0.4], [0.3, 0.31, 0.33, 0.34]
    found = importlib.import_module("study").paired(ours, others)
    truth = stats.ttest_rel(ours, others).confidence_interval(0.95)
    assert [found["low"], found["high"]] == pytest.approx([truth.low, truth.high])


def test_a_student_and_its_teacher_share_their_seed(study):
    page, figures = study("distillation", "--classes", "10", "--limit", "20", "--override", "data.val=10")
    arms = figures["arms"]
    assert list(arms) == ["teacher", "alone", "KD", "DKD"]
    for name in ("KD", "DKD"):
        taught = [run["distillation"]["teachers_sha256"] for run in arms[name]]
        assert taught[0] != taught[1]
        assert f"{100 * figures['differences'][name]['mean']:+.2f} [" in page
    assert "distillation" not in arms["alone"][0]


def test_a_rung_is_compared_with_the_one_below(study):
    small = ("data.dataset.train=200", "data.dataset.test=100", "data.batch_size=100", "data.limit=null")
    page, figures = study("ladder", *(word for text in small for word in ("--override", text)))
    arms = list(figures["arms"])
    assert arms[0] == "00_baseline"
    assert list(figures["differences"]) == arms[1:]
    for below, rung in itertools.pairwise(arms):
        test = [[run["test_top1"] for run in figures["arms"][name]] for name in (below, rung)]
        found = figures["differences"][rung]
        assert found["mean"] == pytest.approx(np.subtract(test[1], test[0]).mean())
        says = "helps" if found["low"] > 0 else "costs" if found["high"] < 0 else "not shown"
        row = next(line for line in page.splitlines() if line.startswith(f"| `{rung}`"))
        assert f"{100 * found['mean']:+.2f} [" in row
        assert f"| {says} |" in row
    assert f"| {100 * figures['beyond']['ensemble']:.2f} |" in page


def test_every_loss_has_its_row_and_its_directions(study, tmp_path, monkeypatch):
    embeddings = importlib.import_module("embeddings")
    every = embeddings.arms
    monkeypatch.setattr(embeddings, "arms", lambda *starts: every(*starts)[::7])
    data = ("data.dataset={name: synthetic, train: 1000, test: 200}", "data.val=50")
    net = ("model.backbone={name: two_numbers, width: 2}",)
    overrides = [word for text in data + net for word in ("--override", text)]
    page, figures = study("embeddings", "--start-epochs", "1", "--epochs", "1", "--seeds", "1", *overrides)
    assert list(figures["arms"]) == ["softmax", "ArcFace 0.2, 3 centers"]
    for name, run in figures["arms"].items():
        val, test = (f"{100 * run[f'{split}_top1']:.1f}" for split in ("val", "test"))
        assert f"| {name} | {val} | {test} |" in page
    points = embeddings.points_of(Run(tmp_path / "runs" / "ArcFace_0.2,_3_centers" / "0"))
    units = points.directions / np.linalg.norm(points.directions, axis=1, keepdims=True)
    nearest = (points.embeddings @ units.T).argmax(1) // 3
    assert np.array_equal(nearest == points.labels, points.right)


def published(name):
    """A study's figures as they are in the repository, and the page that shows them."""
    figures = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())
    return figures, (ROOT / "docs" / "results" / f"{name}.md").read_text()


def test_a_pretrained_start_beats_none_at_every_epoch():
    figures, page = published("transfer")
    differences = figures["differences"]
    assert all(epoch["low"] > 0 for epoch in differences["val_by_epoch"])
    assert differences["test"]["low"] > 0
    assert all(len(runs) >= 3 for runs in figures["arms"].values())
    for value in (*differences["val_by_epoch"], differences["test"]):
        assert f"{100 * value['mean']:+.2f} [{100 * value['low']:+.2f}, {100 * value['high']:+.2f}]" in page


def test_a_taught_student_beats_one_that_is_not():
    figures, page = published("distillation")
    assert figures["differences"]["KD"]["low"] > 0
    assert all(len(runs) >= 3 for runs in figures["arms"].values())
    for value in figures["differences"].values():
        assert f"{100 * value['mean']:+.2f} [{100 * value['low']:+.2f}, {100 * value['high']:+.2f}]" in page
