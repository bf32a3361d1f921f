"""A refit is the run's own configuration on all pictures, cut at the chosen epoch."""

import pytest
import torch

from cifarlab.core import checkpoints
from cifarlab.core.errors import ConfigError
from cifarlab.core.files import read_json
from cifarlab.runs.folder import Run
from cifarlab.training.loop import train_run
from tests.tiny import logged, tiny_config, train_tiny

COSINE = "optim.schedule={name: cosine, warmup: 0.1}"


def test_a_run_stopped_at_an_epoch_is_the_beginning_of_the_whole_run(tmp_path):
    whole, _ = train_tiny(tmp_path / "whole", COSINE, "train.epochs=4", "train.select=last")
    stopped, summary = train_tiny(
        tmp_path / "stopped", COSINE, "train.epochs=4", "train.select=last", "train.stop=2"
    )
    assert logged(stopped) == logged(whole)[:2]
    assert summary.epochs == 4
    assert summary.chosen_epoch == 2
    with pytest.raises(ConfigError, match=r"train\.stop: at most train\.epochs=4"):
        tiny_config("train.epochs=4", "train.stop=5")


def test_a_stopped_run_goes_on_after_a_signal(tmp_path, stop_at):
    words = (COSINE, "train.epochs=4", "train.stop=2")
    whole, _ = train_tiny(tmp_path / "whole", *words)
    with stop_at(9):
        train_tiny(tmp_path / "cut", *words)
    cut, _ = train_tiny(tmp_path / "cut", *words)
    assert logged(cut) == logged(whole)


def test_a_refit_trains_on_all_pictures_up_to_the_chosen_epoch(tmp_path, cifarlab):
    name = "as_run/small"
    config = tiny_config(COSINE, "train.epochs=5", "train.seed=3", "optim.lr=3e-2")
    run = Run(tmp_path / "runs" / name / "3", recipe="demo", name=name)
    summary = train_run(config, run)
    status, out, err = cifarlab("refit", run.folder)
    assert status == 0, err
    again = Run(tmp_path / "runs" / "as_run" / "small_refit" / "3")
    assert f"cifarlab eval {again} --split test" in out
    made = again.plain_config()
    assert (made["data"]["val"], made["train"]["select"]) == (0, "last")
    assert (made["train"]["epochs"], made["train"]["stop"]) == (5, summary.chosen_epoch)
    assert read_json(again.summary_path)["chosen_epoch"] == summary.chosen_epoch
    # The same run as one that was told so from the first: every picture, the same rates.
    by_hand, _ = train_tiny(
        tmp_path / "by_hand", COSINE, "train.epochs=5", "train.seed=3", "optim.lr=3e-2", "data.val=0",
        "train.select=last", f"train.stop={summary.chosen_epoch}",
    )  # fmt: skip
    assert logged(again) == logged(by_hand)
    ours, others = (checkpoints.load_checkpoint(r.best_path, ("model",))["model"] for r in (again, by_hand))
    assert all(torch.equal(ours[key], others[key]) for key in others)
    assert read_json(again.env_path)["name"] == f"{name}_refit"
    assert cifarlab("refit", again.folder)[0] == 2
    assert cifarlab("refit", run.folder, "--name", "final")[0] == 0
    assert Run(tmp_path / "runs" / "final" / "3").summary()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("train.select=test",), "chose its epoch on test"),
        (("data.val=0", "train.select=last"), "held no training pictures out"),
        (("data.limit=100",), "data.limit"),
    ],
)
def test_what_cannot_be_refitted_says_why(tmp_path, cifarlab, overrides, message):
    run, _ = train_tiny(tmp_path / "runs" / "a" / "0", "train.epochs=1", *overrides)
    status, _, err = cifarlab("refit", run.folder)
    assert status == 2
    assert message in err
    assert not (tmp_path / "runs" / "a_refit").exists()
    run.summary_path.unlink()
    assert "not finished" in cifarlab("refit", run.folder)[2]
