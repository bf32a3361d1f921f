"""Run folders that earlier code wrote load, resume, and are scored, compared and reported as before."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from cifarlab import load
from cifarlab.runs.log import read_log

SAVED = Path(__file__).with_name("first_format") / "runs"
RUNS = ["plain", "other", "arcface", "arcface_kd"]
# Of `eval RUN --json` by the code that wrote the runs.
LOSSES = {"plain": 7.553893, "arcface": 6.412485, "arcface_kd": 6.273376}
NETWORK = "model.backbone={name: speed_resnet, widths: [8, 8, 16], stem: conv}"
TINY = [
    "data.dataset={name: synthetic, train: 700, test: 100}", "data.val=100", "data.batch_size=32",
    "train.device=cpu", "train.epochs=2", NETWORK, "optim.lr=0.01",
]  # fmt: skip


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """A copy of the saved runs, in the working directory: `runs/NAME/SEED`."""
    shutil.copytree(SAVED, tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    # They were written in float32, which `auto` is not everywhere.
    monkeypatch.setattr("cifarlab.core.device.has_bfloat16", lambda device: False)
    return Path("runs")


def rows(run: Path) -> list[dict]:
    """The rows of a run's log without what depends on the clock."""
    timed = ("seconds", "images_per_second")
    return [{key: row[key] for key in row if key not in timed} for row in read_log(run / "metrics.jsonl")]


@pytest.mark.parametrize("name", RUNS)
def test_a_model_loads(runs, name):
    model = load(runs / name / "0")
    assert model(torch.zeros(2, 3, 32, 32)).logits.shape == (2, 100)


@pytest.mark.parametrize("name", LOSSES)
def test_a_run_is_scored_as_it_was(runs, cifarlab, name):
    status, out, err = cifarlab("eval", runs / name / "0", "--device", "cpu", "--json")
    assert status == 0, err
    assert json.loads(out)["loss"] == pytest.approx(LOSSES[name], rel=1e-4)


def test_a_stopped_run_resumes_to_the_same_end(runs, cifarlab):
    status, _, err = cifarlab("train", "demo", "--name", "stopped", "--runs", runs, *TINY)
    assert status == 0, err
    resumed, whole = rows(runs / "stopped" / "0"), rows(runs / "plain" / "0")
    assert len(resumed) == len(whole) == 2
    assert resumed[0] == whole[0]
    # Another processor rounds the ten steps that were left in another way.
    assert resumed[1] == pytest.approx(whole[1], rel=1e-3)


def test_a_finished_run_is_known_as_finished(runs, cifarlab):
    before = (runs / "plain" / "0" / "metrics.jsonl").read_bytes()
    status, _, err = cifarlab("train", "demo", "--name", "plain", "--runs", runs, *TINY)
    assert status == 0, err
    assert (runs / "plain" / "0" / "metrics.jsonl").read_bytes() == before


def test_runs_are_compared(runs, cifarlab):
    status, out, err = cifarlab("compare", "plain", "other", "--runs", runs, "--json")
    assert status == 0, err
    assert [arm["mean"] for arm in json.loads(out)["arms"]] == [0.01, 0.03]


def test_a_student_trains_with_a_saved_teacher(runs, cifarlab):
    arguments = ["model.normalize=dataset", "model.head.dim=16", "optim.schedule=cosine"]
    status, _, err = cifarlab(
        "train", "resnet18_pretrained_arcface_kd", "--name", "again", "--runs", runs, *TINY, *arguments,
        "teacher.run=arcface",
    )  # fmt: skip
    assert status == 0, err
    again, saved = rows(runs / "again" / "0"), rows(runs / "arcface_kd" / "0")
    assert again[0].keys() == saved[0].keys()
    # Processors sum in other orders, which the steps of an epoch amplify; accuracies are of few pictures.
    losses = [key for key in saved[0] if "loss" in key]
    assert [again[0][key] for key in losses] == pytest.approx([saved[0][key] for key in losses], rel=2e-2)


def test_runs_are_reported(runs, cifarlab, tmp_path):
    status, _, err = cifarlab("report", runs, "--out", tmp_path / "page")
    assert status == 0, err
    page = (tmp_path / "page" / "report.html").read_text()
    assert not {name for name in RUNS if f"<summary>{name}<" not in page}
