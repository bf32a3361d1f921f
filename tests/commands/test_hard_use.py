"""Unusual input of users: odd names, files named instead of folders, damaged files, full places."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
from filelock import FileLock
from PIL import Image

from cifarlab import cli
from tests.tiny import TINY, once

ODD = "x[/x] :fire: $1_{y} & 100% 猫"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder of runs: two seeds of `a`, one of a name like no other, a soup of both seeds of `a`."""
    runs = tmp_path_factory.mktemp("hard") / "runs"
    paths = [str(runs / "a" / seed) for seed in "01"]
    with pytest.MonkeyPatch.context() as patch:
        for words in (
            ["train", "demo", *TINY, "data.split_seed=0", "--seeds", "2", "--name", "a"],
            ["train", "demo", *once(*TINY, "train.epochs=1"), "--name", ODD],
            ["soup", *paths, "--name", "broth"],
        ):
            patch.setattr(sys, "argv", ["cifarlab", *words, "--runs", str(runs)])
            with pytest.raises(SystemExit) as stop:
                cli.main()
            assert not stop.value.code
    return runs


@pytest.fixture
def runs(made, tmp_path, monkeypatch):
    """A copy to damage, `runs` in the working folder."""
    shutil.copytree(made, tmp_path / "runs")
    monkeypatch.chdir(tmp_path)
    return Path("runs")


def one_line(status, err, *words):
    assert status == 2, err
    assert err.startswith("error: "), err
    assert len(err.splitlines()) == 1, err
    for word in words:
        assert word in err, err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["compare", "a", "--seeds", "0"], "error: invalid value for '--seeds': "),
        (["compare", "a", "b", "--metric", "train"], "'--metric': 'train' is not one of 'val', 'test'"),
        (["soup", "runs/a/0"], "error: missing option '--name'; `"),
        (["train"], "error: missing argument 'recipe'"),
        (["train", "demo", "--sedes", "2"], "--seeds"),
        (["trian", "demo"], "error: no such command 'trian'"),
        (["train", "nope"], "error: no recipe 'nope' (`cifarlab list` shows all)"),
    ],
)
def test_a_commands_words_are_refused_in_one_line(cifarlab, words, message):
    status, _, err = cifarlab(*words)
    one_line(status, err, message)


def test_no_words_at_all_are_answered_with_help(cifarlab):
    status, out, err = cifarlab()
    assert status == 2
    assert "Usage:" in out + err
    assert "Traceback" not in err


def test_a_name_is_shown_as_it_is_in_every_table(runs, cifarlab):
    status, out, err = cifarlab("compare", "a", ODD)
    assert status == 0, err
    assert any(line.startswith(ODD) for line in out.splitlines()), out
    status, out, err = cifarlab("train", "demo", *once(*TINY, "train.epochs=1"), "--name", ODD)
    assert status == 0
    assert f"runs/{ODD}/0 is finished" in out
    status, out, err = cifarlab("report", "runs", "--out", "page")
    assert (status, err) == (0, "")
    table = Path("page/table.tex").read_text()
    assert r"x[/x] :fire: \$1\_\{y\} \& 100\% 猫 &" in table
    # A letter that the font lacks is no reason for a warning, which would fail this test.
    assert cifarlab("plot", f"runs/{ODD}/0", "--out", "curves.png", "--no-gallery")[0] == 0
    with Image.open("curves.png") as picture:
        picture.load()


def test_one_run_has_one_name_in_a_comparison(runs, cifarlab):
    for other in ("a/", "./a", "runs/a", "runs/a/", str(Path("runs/a").absolute())):
        status, _, err = cifarlab("compare", "a", other)
        one_line(status, err, "same name twice")
    status, _, err = cifarlab("compare", "runs/a/0", "runs/a/1")
    one_line(status, err, "runs/a/0 is one seed of a")


def test_a_soup_is_compared_and_reported_as_what_it_is(runs, cifarlab):
    found = json.loads(cifarlab("compare", "a", "broth", "--json")[1])
    assert [row["n"] for row in found["arms"]] == [2, 1]
    status, _, err = cifarlab("compare", "a", "broth", "--seeds", 2)
    one_line(status, err, "broth is a soup")
    assert not (runs / "broth" / "1").exists(), "seeds of a soup would be seeds of its best run"
    status, _, err = cifarlab("refit", "runs/broth/0")
    one_line(status, err, "is a soup", "refit its ingredients")
    status, _, err = cifarlab("report", "runs", "--out", "page")
    assert (status, err) == (0, ""), "nothing is left out"
    assert "| broth | 1 |" in Path("page/table.md").read_text()


@pytest.mark.parametrize(
    "words",
    [
        ["audit", "synthetic", "--out"],
        ["report", "runs", "--out"],
        ["plot", "runs/a/0", "--out"],
        ["profile", "demo", *TINY, "--trace"],
    ],
)
def test_a_file_where_a_folder_should_be_is_named_before_the_work(runs, cifarlab, monkeypatch, words):
    Path("file").write_text("mine")
    for work in (
        "evaluation.audit.audit.audit",
        "report.page.build_page",
        "report.plot.plot_runs",
        "training.profile.profile",
    ):
        monkeypatch.setattr(f"cifarlab.{work}", lambda *_, **__: pytest.fail("it worked first"))
    status, _, err = cifarlab(*words, "file/x.json" if "--trace" in words else "file/x.png")
    one_line(status, err, f"{words[-1]}: ", "file is a file")
    assert Path("file").read_text() == "mine"


def test_a_test_score_reaches_whoever_opened_the_test_set(runs, cifarlab):
    run = runs / "a" / "0"
    found = json.loads(cifarlab("eval", run / "best.pt", "--split", "test", "--json")[1])
    assert found["written"]
    assert json.loads((run / "summary.json").read_text())["test_top1"] == found["top1"]
    shutil.copy(run / "best.pt", "exported.pt")
    status, out, err = cifarlab("eval", "exported.pt", "--split", "test")
    assert (status, err) == (0, "")
    assert "not written to a summary: it is a standalone checkpoint" in out
    (run / "summary.json").write_text("")
    status, out, err = cifarlab("eval", run, "--split", "test")
    assert (status, err) == (0, "")
    assert "top-1" in out
    assert "not written to a summary: runs/a/0/summary.json: cannot be read: it is empty" in out


def test_a_run_that_goes_on_can_be_asked_for_its_test_score(runs, cifarlab):
    run = runs / "a" / "0"
    (run / "summary.json").unlink()
    with FileLock(run / "lock"):
        status, out, err = cifarlab("eval", run, "--split", "test")
    assert (status, err) == (0, "")
    assert "not written to a summary: the run is not finished" in out


@pytest.mark.parametrize("content", ["", "[1, 2]", '{"seed": 0}', '{"chosen_on": '])
def test_a_damaged_summary_is_written_again(runs, cifarlab, content):
    file = runs / "a" / "0" / "summary.json"
    before = json.loads(file.read_text())
    file.write_text(content)
    again = ("train", "demo", *TINY, "data.split_seed=0", "--name", "a")
    status, _, err = cifarlab(*again)
    one_line(status, err, str(file), "repeat the command that trained the run")
    file.unlink()
    assert cifarlab(*again)[0] == 0
    after = json.loads(file.read_text())
    clock = ("seconds", "images_per_second", "peak_memory_bytes")
    assert {key: after[key] for key in after if key not in clock} == {
        key: before[key] for key in before if key not in clock
    }


def test_what_is_no_checkpoint_is_called_so(runs, cifarlab):
    best = (runs / "a" / "0" / "best.pt").read_bytes()
    damage = ((b"", "it is empty"), (best[:3000], "it is truncated"), (b"a: 1\n", "or not a checkpoint"))
    for content, reason in damage:
        Path("x.pt").write_bytes(content)
        status, _, err = cifarlab("eval", "x.pt")
        one_line(status, err, "x.pt: not a readable checkpoint (", reason)
        assert "--fresh" not in err, "it is no run's, to start over"


def test_a_log_of_something_else_is_no_log(runs, cifarlab):
    (runs / "a" / "1" / "metrics.jsonl").write_text('{"epoch": 1, "val/top1": 0.5}\n')
    status, _, err = cifarlab("plot", "runs/a/1", "--no-gallery")
    one_line(status, err, "runs/a/1: no run, or a run without a finished epoch")
    status, _, err = cifarlab("report", "runs", "--out", "page")
    assert status == 0
    assert err.startswith("left out: runs/a/1: ")
    assert len(err.splitlines()) == 1


def test_the_folder_of_seeds_is_not_a_run(runs, cifarlab):
    status, _, err = cifarlab("refit", "runs/a")
    one_line(status, err, "did you mean runs/a/0?")
    status, _, err = cifarlab("refit", "runs/b")
    one_line(status, err, "runs/b: no such run")


def test_a_ledger_that_cannot_be_read_is_a_failure_in_one_line(runs, cifarlab):
    (runs / "ledger.jsonl").mkdir()
    for words in (["report", "runs", "--out", "page"], ["eval", "runs/a/0", "--split", "test"]):
        status, _, err = cifarlab(*words)
        assert status == 1
        assert len(err.splitlines()) == 1
        assert err.startswith("error: runs/ledger.jsonl: cannot be ")
        assert "--debug" not in err
    status, _, err = cifarlab("compare", "a", ODD)
    assert status == 1
    assert "cannot be counted" in err
