"""A run's name: one spelling, whoever says it, and nothing that stands for something else."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cifarlab.core.errors import ConfigError
from cifarlab.evaluation.score import evaluate
from cifarlab.experiments.compare import find_arm
from cifarlab.runs.folder import Run
from cifarlab.runs.ledger import count_openings, openings, record_opening
from cifarlab.runs.naming import run_name
from cifarlab.training.loop import train_run
from tests.tiny import TINY, once, tiny_config, train_tiny

PARTS = st.lists(st.sampled_from(["", ".", "..", "a", "b", "c d"]), min_size=1, max_size=6)


@given(PARTS)
def test_a_name_has_one_spelling_or_none(parts):
    """The folder below all runs that its words lead to says which."""
    stack: list[str] = []
    for part in parts:
        if part == ".." and not stack:
            stack = ["out"]
            break
        if part == "..":
            stack.pop()
        elif part not in ("", "."):
            stack.append(part)
    name = "/".join(parts)
    if not stack or "out" in stack or name.startswith("/"):
        with pytest.raises(ConfigError, match="a name, not a path"):
            run_name(name)
    else:
        assert run_name(name) == run_name(run_name(name)) == "/".join(stack)


def test_openings_are_counted_under_one_spelling(tmp_path, cifarlab):
    """Whatever the run was called at first, or in a comparison."""
    runs = tmp_path / "runs"
    words = ["demo", *once(*TINY, "train.epochs=1"), "--name", "./a", "--runs", runs]
    assert cifarlab("train", *words)[0] == 0
    folder = runs / "a" / "0"
    assert json.loads((folder / "env.json").read_text())["name"] == "a"
    for spelling in ("./a", "a/", "b/../a", str(runs / "b" / ".." / "a")):
        arm = find_arm(spelling, runs, None)
        assert (arm.name, arm.runs[0].runs) == ("a", runs)
        record_opening(arm.runs[0], "eval", "f", 1)
    assert evaluate(folder, split="test", device="cpu").test_opened == {"run": 5, "runs": 5}
    assert {entry["run"] for entry in openings(runs)} == {"a/0"}


def test_what_older_versions_wrote_down_is_counted_together(tmp_path):
    lines = [json.dumps({"run": run}) for run in ("a/0", "./a/0", "a//0", "b/../a/0", "b/0", None)]
    (tmp_path / "ledger.jsonl").write_text("\n".join(lines))
    folder = tmp_path / "a" / "0"
    folder.mkdir(parents=True)
    (folder / "config.yaml").touch()
    assert count_openings(Run(folder)) == {"run": 4, "runs": 6}


def test_a_run_is_known_from_within_its_folder(tmp_path, monkeypatch):
    run, _ = train_tiny(tmp_path / "runs" / "a" / "0", "train.epochs=1")
    run.env_path.unlink()
    monkeypatch.chdir(run.folder)
    evaluate(".", split="test", device="cpu")
    assert [entry["run"] for entry in openings(tmp_path / "runs")] == ["a/0"]


def test_a_teachers_name_has_one_spelling_too():
    teacher = tiny_config("teacher.run=./a//b/").teacher
    assert teacher is not None
    assert teacher.run == ("a/b",)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("lr=0.1", "an override"),
        ("a/lr=0.1", "an override"),
        ("-a", "an option"),
        ("a.yaml", "recipe file"),
        ("b/a.yml", "recipe file"),
        ("ledger.jsonl", "ledger"),
        ("./Ledger.lock/a", "ledger"),
        ("a/" + "ü" * 101, "more than 200 bytes in a part"),
    ],
)
def test_a_name_that_stands_for_something_else_is_refused(tmp_path, monkeypatch, cifarlab, name, reason):
    monkeypatch.chdir(tmp_path)
    made = Path("b", "0")
    made.mkdir(parents=True)
    for words in (["train", "demo", *TINY], ["soup", made], ["refit", made]):
        status, _, err = cifarlab(*words, f"--name={name}")
        assert status == 2, err
        assert len(err.splitlines()) == 1, err
        assert "cannot be a run's name" in err, err
        assert reason in err
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
    with pytest.raises(ConfigError, match="cannot be a run's name"):
        Run(Path("runs", name, "0"), recipe="demo", name=name)


def test_the_default_name_of_a_recipes_file_is_looked_at_too(tmp_path, cifarlab):
    recipe = tmp_path / "lr=0.1.yaml"
    recipe.write_text("base: demo\n")
    status, _, err = cifarlab("train", recipe, *TINY, "--runs", tmp_path / "runs")
    assert status == 2
    assert "'lr=0.1' cannot be a run's name (--name)" in err
    assert not (tmp_path / "runs").exists()


def test_a_run_is_not_made_within_another_nor_around_it(tmp_path):
    runs = tmp_path / "runs"
    for folder in (runs / "a" / "0", runs / "b" / "1" / "0"):
        folder.mkdir(parents=True)
        (folder / "config.yaml").touch()
    for name, seed, other in (
        ("a/0", 0, runs / "a/0"),
        ("a/0/deep", 1, runs / "a/0"),
        ("b", 1, runs / "b/1/0"),
    ):
        run = Run(runs / name / str(seed), recipe="demo", name=name)
        with pytest.raises(ConfigError, match=f"the run {other} would be nested"):
            train_run(tiny_config(f"train.seed={seed}"), run)
        assert not run.started
    assert not (runs / "a/0/0").exists()
    assert not (runs / "a/0/lock").exists()
    # Names beside each other do not conflict.
    with Run(runs / "a" / "1").locked(), Run(runs / "b" / "2" / "0", name="b/2").locked():
        pass
