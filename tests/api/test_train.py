"""A run from Python is the run of the command line."""

import doctest

import numpy as np
import pytest
import torch
from PIL import Image

import cifarlab as package
from cifarlab.core.errors import ConfigError
from tests.tiny import PARTS, TINY, once
from tests.training.test_loop import assert_same_run

OPTIONS = {
    "imports": [PARTS],
    "data.dataset": {"name": "synthetic", "train": 300, "test": 100},
    "data.val": 100,
    "data.batch_size": 32,
    "model.backbone": "tiny",
    "optim.lr": 1e-3,
    "train.epochs": 1,
    "train.device": "cpu",
}


def test_it_trains_what_the_command_line_trains(tmp_path, cifarlab):
    run = package.train("demo", OPTIONS, runs=tmp_path / "ours")
    words = ["train", "demo", *once(*TINY, "train.epochs=1"), "--runs", tmp_path / "theirs"]
    assert cifarlab(*words)[0] == 0
    assert_same_run(run, package.Run(tmp_path / "theirs" / "demo" / "0"))


def test_a_run_is_given_to_what_reads_runs(tmp_path, capsys):
    run = package.train("demo", OPTIONS, runs=tmp_path, name="mine")
    assert run.folder == tmp_path / "mine" / "0"
    assert repr(run) == f"Run('{tmp_path / 'mine' / '0'}')"
    picture = np.zeros((32, 32, 3), np.uint8)
    assert package.predict(run, picture) == package.load(run).predict(picture)
    assert not capsys.readouterr().out, "silent, unless progress is asked for"
    before = (run.folder / "best.pt").stat().st_mtime_ns
    assert package.train("demo", OPTIONS, runs=tmp_path, name="mine", show_progress=True).summary()
    assert "is finished" in capsys.readouterr().out
    assert (run.folder / "best.pt").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"train.epochz": 1}, "train.epochz: unknown; did you mean epochs?"),
        ({"train.epochs": object()}, "train.epochs: expected plain data, got object"),
        ({"train": {"epochs": 1}, "train.epochs": 2}, "train.epochs: given twice"),
        ({"optim.lr": 1e-5, "optim.momentum": 0.9}, "optim.momentum: "),
    ],
)
def test_a_mistake_is_named_by_its_path(tmp_path, overrides, message):
    with pytest.raises(ConfigError) as caught:
        package.train(
            "demo", {**OPTIONS, **overrides} if "train" not in overrides else overrides, runs=tmp_path
        )
    assert message in str(caught.value)
    assert not [*tmp_path.iterdir()]


def test_values_stay_what_they_are(tmp_path):
    root = str(tmp_path / "\U0001f600 \U00020bb7: #[]")
    run = package.train("demo", {**OPTIONS, "optim.lr": 1e-5, "data.root": root}, runs=tmp_path / "runs")
    plain = run.plain_config()
    assert plain["optim"]["lr"] == 1e-5
    assert plain["data"]["root"] == root


@pytest.mark.parametrize(
    "function",
    [package.train, package.load, package.predict, package.evaluate, package.compare],
    ids=lambda each: each.__name__,
)
def test_the_examples_of_the_docstrings_run(tmp_path, monkeypatch, function):
    monkeypatch.chdir(tmp_path)
    package.train("demo", OPTIONS)
    (tmp_path / "holiday").mkdir()
    for name in ("cat.jpg", "holiday/beach.png"):
        Image.new("RGB", (40, 30)).save(name)
    finder = doctest.DocTestFinder(recurse=False)
    (found,) = finder.find(function, function.__name__, globs={"cifarlab": Quick, "torch": torch})
    assert found.examples
    assert doctest.DocTestRunner().run(found).failed == 0


class Quick:
    """cifarlab, with few pictures and a tiny network."""

    evaluate = staticmethod(package.evaluate)
    load = staticmethod(package.load)
    predict = staticmethod(package.predict)

    @staticmethod
    def train(recipe, overrides):
        return package.train(
            recipe, {**OPTIONS, "data.dataset": {"train": 1000}, **overrides}, name="example"
        )

    @staticmethod
    def compare(names, **options):
        return package.compare(names, overrides=OPTIONS, runs="compared", **options)
