"""Runs that were saved when `data.views` was `teacher.views`: they load, and they resume."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from cifarlab.core import checkpoints
from cifarlab.evaluation.score import evaluate
from cifarlab.report.collect import read_run
from cifarlab.runs.folder import Run
from cifarlab.runs.model import load_trained
from cifarlab.training.loop import train_run
from tests.teachers.taught import student
from tests.tiny import logged
from tests.training.test_loop import assert_equal


def as_saved_before(plain: dict[str, Any]) -> dict[str, Any]:
    """The configuration with the views where the earlier version kept them."""
    data = {key: value for key, value in plain["data"].items() if key != "views"}
    return {**plain, "data": data, "teacher": {**plain["teacher"], "views": plain["data"]["views"]}}


def save_as_before(run: Run) -> None:
    """Rewrite what a run saved as the earlier version would have saved it."""
    run.config_path.write_text(yaml.safe_dump(as_saved_before(run.plain_config()), sort_keys=False))
    if run.best_path.exists():
        state = torch.load(run.best_path, weights_only=True)
        torch.save({**state, "config": as_saved_before(state["config"])}, run.best_path)


@pytest.mark.parametrize("views", ["2", "null"])
def test_a_finished_run_loads_and_a_started_one_resumes(
    runs: Path, tmp_path: Path, stop_at: Any, views: str
) -> None:
    config = student(runs, "data.augment={crop: {}}", f"data.views={views}", "train.epochs=3")
    whole, parts = Run(tmp_path / "whole" / "0"), Run(tmp_path / "parts" / "0")
    train_run(config, whole)
    score = evaluate(whole.folder, split="val").top1
    with stop_at(9):
        train_run(config, parts)
    for run in (whole, parts):
        save_as_before(run)
        assert yaml.safe_load(run.config_path.read_text())["teacher"]["views"] == config.data.views
    assert load_trained(whole.folder).saved.data.views == config.data.views
    assert evaluate(whole.folder, split="val").top1 == score
    assert read_run(whole.folder, "whole").config["data"].get("views") == config.data.views
    assert train_run(config, whole) == whole.summary()  # Finished: not trained again, nor refused.
    train_run(config, parts)
    assert logged(parts) == logged(whole)
    states = [
        checkpoints.load_checkpoint(run.last_path, ("engine",))["engine"]["model"] for run in (whole, parts)
    ]
    assert_equal(*states)
