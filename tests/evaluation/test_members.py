"""What may be a member of an ensemble or of a soup, and what is said of it."""

import json
from dataclasses import replace

import pytest

from cifarlab.core.errors import ConfigError
from cifarlab.evaluation import members
from cifarlab.evaluation.analysis.analyze import analyze
from cifarlab.evaluation.ensemble import evaluate_ensemble
from cifarlab.evaluation.sealed import open_split, read_splits
from cifarlab.evaluation.soup import make_soup
from cifarlab.runs.environment import Environment
from cifarlab.runs.folder import Run
from cifarlab.runs.ledger import openings
from tests.tiny import train_tiny

pytestmark = pytest.mark.quick


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs with the same validation pictures, and two without any, at two sizes."""
    folder = tmp_path_factory.mktemp("runs")
    everything = ("data.val=0", "train.select=last")
    for name, *overrides in (
        ("a/0", "data.image_size=8"),
        ("a/1", "data.image_size=8", "data.split_seed=0", "train.seed=1"),
        ("all/0", "data.image_size=8", *everything),
        ("all/1", "data.image_size=16", "train.seed=1", *everything),
    ):
        train_tiny(folder / name, "train.epochs=1", *overrides)
    return folder


@pytest.mark.parametrize("count", [0, 1])
def test_a_mean_needs_two_runs(runs, tmp_path, count):
    few = [runs / "a" / "0"][:count]
    for make in (
        lambda: evaluate_ensemble(few, "val", device="cpu"),
        lambda: make_soup(few, Run(tmp_path / "soup" / "0"), device="cpu"),
    ):
        with pytest.raises(ConfigError, match=f"two runs or more, got {count}"):
            make()
    assert [*tmp_path.iterdir()] == []


def test_a_run_counts_once(runs, tmp_path):
    run = runs / "a" / "0"
    twice = [run, runs / "a" / "1", run / "best.pt"]
    for make in (
        lambda: evaluate_ensemble(twice, "val", device="cpu"),
        lambda: make_soup(twice, Run(tmp_path / "soup" / "0"), device="cpu"),
    ):
        with pytest.raises(ConfigError, match=r"a/0 is given twice; name each run once"):
            make()


def test_each_member_sees_the_pictures_that_it_was_trained_on(runs):
    sizes = [runs / "all" / "0", runs / "all" / "1"]
    with pytest.raises(ConfigError, match=r"all/1 keeps pictures at 16 px, .*all/0 at 8 px, .*store_size"):
        evaluate_ensemble(sizes, "test", device="cpu", mean="logits")


@pytest.fixture
def altered(monkeypatch):
    """Data sets of which there is something to say."""

    def told(run, trained):
        return replace(read_splits(run, trained), warnings=("altered",), notes=("few",))

    monkeypatch.setattr(members, "read_splits", told)


@pytest.mark.parametrize("split", ["val", "test"])
def test_an_ensemble_says_what_is_said_of_its_data(runs, altered, split):
    pair = [runs / "a" / "0", runs / "a" / "1"]
    assert evaluate_ensemble(pair, split, device="cpu").warnings == ["altered"]


def test_a_soup_says_what_is_said_of_its_data(runs, altered, tmp_path):
    soup = Run(tmp_path / "soup" / "0")
    summary = make_soup([runs / "a" / "0", runs / "a" / "1"], soup, device="cpu")
    env = Environment.read(soup.env_path)
    assert summary.warnings == env.warnings == ["altered"]
    assert env.notes == ["few"]


def test_openings_by_a_soup_are_counted_with_those_of_all_runs(runs, tmp_path, cifarlab):
    pair = [runs / "a" / "0", runs / "a" / "1"]
    status, _, err = cifarlab("soup", *pair, "--name", "deep/broth", "--runs", tmp_path)
    assert status == 0, err
    made = tmp_path / "deep" / "broth" / "0"
    found = json.loads(cifarlab("eval", made, "--split", "test", "--json")[1])
    assert found["test_opened"] == {"run": 1, "runs": 1}
    assert [entry["run"] for entry in openings(tmp_path)] == ["deep/broth/0"]
    assert not (tmp_path / "deep" / "ledger.jsonl").exists()


@pytest.mark.parametrize(
    ("split", "hint"),
    [("tset", "did you mean test?"), ("train", "known: test, val"), ("", "known: test, val")],
)
def test_another_split_is_a_mistake(runs, split, hint):
    pair = [runs / "a" / "0", runs / "a" / "1"]
    for score in (
        lambda: evaluate_ensemble(pair, split, device="cpu"),
        lambda: analyze(pair[0], split=split, device="cpu"),
    ):
        with pytest.raises(ConfigError) as caught:
            score()
        assert str(caught.value) == f"split: {split}: unknown; {hint}"


def test_no_split_is_opened_in_place_of_an_unknown_one():
    with pytest.raises(ConfigError, match=r"split: tset: unknown; did you mean test\?"):
        open_split("a", None, "tset", "eval")


def test_views_are_named_as_on_the_command_line(runs):
    pair = [runs / "a" / "0", runs / "a" / "1"]
    found = evaluate_ensemble(pair, "val", device="cpu", tta="flip")
    assert found.tta.name == "flip"
    assert found.forward_passes == 4
