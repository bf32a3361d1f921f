"""Early stopping: when a run ends, what it keeps, what it says, an exact resume."""

import json
import shutil

import pytest
import torch

from cifarlab import load
from cifarlab.core.errors import ConfigError
from cifarlab.engine.step import Engine
from cifarlab.runs.folder import Run
from cifarlab.training.loop import _Training
from tests.tiny import TINY, logged, once, tiny_config, train_tiny
from tests.training.test_loop import assert_same_run

# Best at epoch 2; its equal at epoch 4 is no better.
SCORES = (0.1, 0.3, 0.2, 0.3, 0.25, 0.9, 0.1, 0.1)
WAITS = ("train.epochs=8", "optim.schedule=cosine", "model.backbone.dropout=0.3")


@pytest.fixture
def scored(monkeypatch):
    """Let the epochs of a run have `SCORES`, whatever the model is; by the step that closes them."""
    close = _Training.close_epoch

    def closed(self, epoch, pictures):
        with monkeypatch.context() as patch:
            patch.setattr(Engine, "score", lambda *_: {"top1": SCORES[epoch]})
            close(self, epoch, pictures)

    monkeypatch.setattr(_Training, "close_epoch", closed)


@pytest.mark.parametrize(
    ("patience", "ran", "best", "by"),
    [(1, 3, 2, "train.patience"), (3, 5, 2, "train.patience"), (4, 8, 6, "train.epochs")],
)
def test_a_run_ends_after_so_many_epochs_without_a_better_score(tmp_path, scored, patience, ran, best, by):
    run, summary = train_tiny(tmp_path / "run", *WAITS, f"train.patience={patience}")
    assert (summary.epochs, summary.epochs_run, summary.chosen_epoch) == (8, ran, best)
    assert summary.ended_by == by
    assert [row["epoch"] for row in logged(run)] == [*range(1, ran + 1)]


def test_the_best_epoch_is_what_is_kept(tmp_path, scored):
    """The weights of a run that was told to end there: the learning rates are the same."""
    run, _ = train_tiny(tmp_path / "run", *WAITS, "train.patience=2")
    until, summary = train_tiny(tmp_path / "until", *WAITS, "train.stop=2", "train.select=last")
    assert summary.ended_by == "train.stop"
    assert summary.epochs_run == 2
    kept, told = load(run.folder).state_dict(), load(until.folder).state_dict()
    assert all(torch.equal(kept[key], told[key]) for key in told)
    assert logged(until) == logged(run)[:2]


@pytest.mark.parametrize("at", [2, 13, 24])
def test_a_run_goes_on_with_the_patience_it_had(tmp_path, scored, stop_at, at):
    """Stopped in the first epoch, at the end of the best one, within the wait."""
    whole, summary = train_tiny(tmp_path / "whole", *WAITS, "train.patience=3")
    with stop_at(at):
        train_tiny(tmp_path / "run", *WAITS, "train.patience=3")
    run, again = train_tiny(tmp_path / "run", *WAITS, "train.patience=3")
    assert_same_run(whole, run)
    assert again.epochs_run == summary.epochs_run == 5


@pytest.mark.parametrize(
    ("words", "behind", "ahead", "ran"),
    [
        # Seven steps an epoch: within or at the end of epoch 1, at the ends of 3 and 7. Best are 2 and 6.
        ("train.patience=3", 2, 20, 5),
        ("train.patience=4", 6, 48, 8),
        ("train.select=last", 6, 20, 8),
    ],
)
def test_a_best_that_is_epochs_ahead_changes_nothing(tmp_path, scored, stop_at, words, behind, ahead, ran):
    """A kill after best.pt was written and before the last.pt that came with it: an older one is there."""
    whole, summary = train_tiny(tmp_path / "whole", *WAITS, words)
    run = Run(tmp_path / "run")
    with stop_at(behind):
        train_tiny(run.folder, *WAITS, words)
    rows = len(logged(run))
    shutil.copy(run.last_path, tmp_path)
    with stop_at(ahead):
        train_tiny(run.folder, *WAITS, words)
    shutil.copy(tmp_path / "last.pt", run.last_path)
    assert len(logged(run)) > rows, "the log is ahead, too"
    _, again = train_tiny(run.folder, *WAITS, words)
    assert_same_run(whole, run)
    assert again.epochs_run == summary.epochs_run == ran
    assert again.chosen_epoch == summary.chosen_epoch


def test_no_step_follows_where_only_the_summary_was_missing(tmp_path, scored, monkeypatch):
    whole, summary = train_tiny(tmp_path / "whole", *WAITS, "train.patience=2")
    (whole.folder / "summary.json").unlink()
    monkeypatch.setattr(Engine, "step", lambda *_: pytest.fail("trained on"))
    _, again = train_tiny(tmp_path / "whole", *WAITS, "train.patience=2")
    timed = {"seconds", "images_per_second", "peak_memory_bytes"}
    assert again.model_dump(exclude=timed) == summary.model_dump(exclude=timed)


def test_the_command_line_says_why_it_ended_and_that_it_is_finished(tmp_path, scored, cifarlab):
    words = [*tiny_words("train.patience=1"), "--name", "r", "--runs", tmp_path]
    status, out, _ = cifarlab("train", "demo", *words)
    assert status == 0
    assert "(epoch 2 of 8, chosen on val; train.patience ended it after 3)" in out.splitlines()[-1]
    assert "is finished" in cifarlab("train", "demo", *words)[1]
    run = Run(tmp_path / "r" / "0")
    assert json.loads(run.summary_path.read_text())["ended_by"] == "train.patience"
    run.summary_path.unlink()
    status, out, err = cifarlab("train", "demo", *words)
    assert status == 0
    assert "train.patience ended it after 3" in out
    assert "resuming" not in out + err, "no epoch follows"
    status, _, err = cifarlab("refit", run.folder)
    assert status == 0, err
    refit = Run(tmp_path / "r_refit" / "0").summary()
    assert refit is not None
    assert (refit.epochs_run, refit.ended_by) == (2, "train.stop")


def tiny_words(*more: str) -> list[str]:
    return once(*TINY, *WAITS, *more)


def test_without_a_score_there_is_nothing_to_wait_for():
    with pytest.raises(ConfigError, match=r"^train\.patience: needs a score.* set train\.select=val"):
        tiny_config("train.patience=2", "train.select=last")
    with pytest.raises(ConfigError, match=r"^train\.patience: "):
        tiny_config("train.patience=0")
