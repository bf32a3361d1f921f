"""A comparison from Python is that of the command line."""

import json

import pytest

import cifarlab as package
from cifarlab.core.errors import ConfigError
from cifarlab.runs.ledger import openings
from tests.api.test_train import OPTIONS
from tests.tiny import TINY, once, train_tiny


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Three names: of two seeds, of one, and of one that has no score on test yet."""
    folder = tmp_path_factory.mktemp("compared") / "runs"
    for name, seed, *words in (("a", 0), ("a", 1), ("b", 0, "optim.lr=0.01"), ("c", 0, "optim.lr=0.1")):
        train_tiny(folder / name / str(seed), "train.epochs=1", f"train.seed={seed}", *words)
    return folder


def test_it_finds_what_the_command_line_finds(runs, cifarlab, capsys):
    for metric in ("val", "test"):
        status, out, err = cifarlab("compare", "a", "b", "c", "--metric", metric, "--json", "--runs", runs)
        assert status == 0, err
        found = package.compare(["a", runs / "b", "c"], runs=runs, metric=metric)
        assert json.dumps(found.to_json(), indent=2) == out.rstrip()
        assert isinstance(found, package.Comparison)
        assert found.metric == metric
    assert not capsys.readouterr().out, "silent, unless progress is asked for"
    assert [arm.difference and arm.difference.against for arm in found.arms] == [None, "a", "a"]


def test_each_is_compared_with_the_one_before(runs):
    found = package.compare(["a", "b", "c"], runs=runs, against="previous")
    assert [arm.difference and arm.difference.against for arm in found.arms] == [None, "a", "b"]


def test_it_trains_what_is_missing_and_no_more(tmp_path, cifarlab, capsys):
    def compared(**options):
        names = ["demo", tmp_path / "mine.yaml"]
        return package.compare(names, seeds=2, runs=tmp_path / "runs", overrides=OPTIONS, **options)

    (tmp_path / "mine.yaml").write_text("base: demo\noptim: {weight_decay: 0.5}\n")
    found = compared(show_progress=True)
    assert capsys.readouterr().out
    assert [(arm.name, arm.recipe, arm.seeds) for arm in found.arms] == [
        ("demo", "demo", [0, 1]),
        ("mine", "mine", [0, 1]),
    ]
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*.pt")}
    assert compared() == found
    assert openings(tmp_path / "runs") == []
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*.pt")} == before
    words = ["demo", tmp_path / "mine.yaml", *once(*TINY, "train.epochs=1"), "--seeds", 2]
    status, out, err = cifarlab("compare", *words, "--json", "--runs", tmp_path / "runs")
    assert status == 0, err
    assert json.loads(out) == found.to_json()


TWO = ["demo", "resnet18_baseline"]


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        ("demo", {}, "at least two names"),
        (["demo"], {}, "at least two names"),
        (["demo", "demo"], {"seeds": 2}, "twice"),
        (["demo", "dmeo"], {"seeds": 2}, "did you mean demo?"),
        (["demo", "dmeo"], {}, "no finished run of demo"),
        (["demo", "optim.lr=1"], {"seeds": 2}, "optim.lr=1"),
        (TWO, {"metric": "train"}, "metric: 'train'"),
        (TWO, {"against": "last"}, "against: 'last'"),
        (TWO, {"seeds": 0}, "seeds: at least 1, got 0"),
        (TWO, {"seeds": 2, "at_once": 0}, "at_once: at least 1, got 0"),
        (TWO, {"at_once": 2}, "--at-once 2 needs a number of seeds"),
        (TWO, {"overrides": {"optim.lr": 1}}, "number of seeds"),
        (TWO, {"seeds": 2, "overrides": {"train.seed": 1}}, "contradict"),
        (TWO, {"seeds": 2, "overrides": {"optim": {"lr": 1}, "optim.lr": 1}}, "twice"),
        (TWO, {"seeds": 2, "overrides": {"optim.lr": object()}}, "optim.lr: expected"),
    ],
)
def test_a_mistake_is_named_and_nothing_is_written(tmp_path, names, options, message):
    with pytest.raises(ConfigError) as caught:
        package.compare(names, runs=tmp_path / "runs", **options)
    assert message in str(caught.value)
    assert not (tmp_path / "runs").exists()
