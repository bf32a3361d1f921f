"""Scores from Python are those of the command line."""

import json

import pytest

import cifarlab as package
from cifarlab.core.errors import ConfigError
from cifarlab.evaluation.score import evaluate
from tests.tiny import train_tiny


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train_tiny(tmp_path_factory.mktemp("runs") / "a" / "0", "train.epochs=1")[0]


def test_it_scores_what_the_command_line_scores(run, cifarlab):
    assert package.evaluate is evaluate
    found = package.evaluate(run, device="cpu", tta="{name: sizes, scales: [1.0, 1.5]}")
    assert isinstance(found, package.Scores)
    assert found.tta.scales == [1.0, 1.5]
    words = ("eval", run, "--device", "cpu", "--tta", "{name: sizes, scales: [1.0, 1.5]}", "--json")
    plain = json.loads(cifarlab(*words)[1])
    plain["images_per_second"] = found.images_per_second
    plain["tta"]["images_per_second"] = found.tta.images_per_second
    assert plain == found.to_json()
    assert package.evaluate(run.folder, device="cpu").top1 == found.top1


def test_another_split_is_a_mistake(run):
    with pytest.raises(ConfigError, match="tset: unknown; did you mean test"):
        package.evaluate(run, split="tset")
    with pytest.raises(ConfigError, match="did you mean flip"):
        package.evaluate(run, tta="flp")


@pytest.mark.parametrize("mean", ["logits", "typo"])
def test_a_mean_of_no_views_is_a_mistake(run, mean):
    with pytest.raises(ConfigError, match=f"mean: {mean} needs views"):
        package.evaluate(run, device="cpu", mean=mean)


def test_another_mean_is_a_mistake(run):
    with pytest.raises(ConfigError, match="mean: logit: unknown; did you mean logits"):
        package.evaluate(run, device="cpu", tta="flip", mean="logit")
    assert package.evaluate(run, device="cpu", tta="flip").tta.mean == "logits"
