"""What the page says a run changes: in the very recipe that it was resolved from, whatever that is called."""

import dataclasses
import json

import pytest

from cifarlab.config.recipes import read_recipe
from cifarlab.core.errors import ConfigError
from cifarlab.report.collect import Finished, read_run
from cifarlab.report.page import build_page
from cifarlab.report.provenance import changes, surroundings
from tests.report.planted import plant


@pytest.fixture
def run(one, tmp_path) -> Finished:
    """A run of the package's `demo` with other options, as it was written before recipes' files were."""
    found = read_run(plant(one, tmp_path / "runs", "demo", 0, 0.5), "demo")
    return with_env(found, recipes=[], command=["cifarlab", "train", "demo"])


def with_env(run: Finished, **env) -> Finished:
    return dataclasses.replace(run, env=run.env.changed(**env))


@pytest.fixture
def own(tmp_path):
    """A recipe of the user's own, called as one of the package's."""
    path = tmp_path / "own" / "demo.yaml"
    path.parent.mkdir()
    path.write_text("base: demo\noptim: {weight_decay: 0.5}\n")
    return path


def keys(run: Finished) -> set[str]:
    return {key for key, *_ in changes(run)[1]}


def test_a_file_of_ones_own_is_not_the_packages_recipe_of_its_name(run, own):
    packaged, mine = (with_env(run, recipes=[*read_recipe(name).files]) for name in ("demo", str(own)))
    # The base of the package's is resnet18_baseline, on CIFAR-100; that of the user's is the package's.
    assert "data.dataset.name" in keys(packaged) == keys(run)
    assert "data.dataset.name" not in keys(mine)
    assert "model.backbone.name" in keys(mine)
    assert dict(surroundings(mine))["recipe"] == str(own)
    assert dict(surroundings(packaged))["recipe"] == dict(surroundings(run))["recipe"] == "demo"


@pytest.mark.parametrize("word", ["demo.yaml", "/elsewhere/demo.yml"])
def test_an_older_run_of_ones_own_file_is_known_by_its_command(run, word, own, monkeypatch):
    older = with_env(run, command=["/bin/cifarlab", "train", word, "optim.lr=1"])
    monkeypatch.chdir(own.parent)  # Another demo.yaml, perhaps.
    heading, rows = changes(older)
    assert rows == []
    assert heading.startswith(f"Not compared with its recipe ({word}: ")
    assert dict(surroundings(older))["recipe"] == word


def test_what_has_changed_or_gone_since_is_said(run, own, tmp_path):
    mine = with_env(run, recipes=[*read_recipe(str(own)).files])
    before = changes(mine)[1]
    own.write_text("base: demo\noptim: {weight_decay: 0.25}\n")
    assert changes(mine) == ("Differs from its recipe's base (its files have changed since) in:", before)
    own.unlink()
    heading, rows = changes(mine)
    assert rows == []
    assert heading.startswith(f"Not compared with its recipe ({own}: no such recipe file)")


def test_a_recipe_without_a_base_is_compared_itself(run, own):
    own.write_text("model: {backbone: tiny}\nobjective: {cross_entropy: {}}\n")
    heading, rows = changes(with_env(run, recipes=[*read_recipe(str(own)).files]))
    assert heading == "Differs from its recipe in:"
    assert "model.backbone.name" not in {key for key, *_ in rows}


@pytest.mark.parametrize("recipes", [5, "demo", [1], [{"path": "x"}], {"path": "x", "sha256": "y"}])
def test_a_record_of_another_kind_is_named(one, tmp_path, recipes):
    folder = plant(one, tmp_path / "runs", "demo", 0, 0.5)
    env = json.loads((folder / "env.json").read_text())
    (folder / "env.json").write_text(json.dumps({**env, "recipes": recipes}))
    with pytest.raises(ConfigError, match=r"env\.json: cannot be read: recipes"):
        read_run(folder, "demo")


def test_the_page_says_which_recipe_it_was(one, own, tmp_path):
    folder = plant(one, tmp_path / "runs", "demo", 0, 0.5)
    env = json.loads((folder / "env.json").read_text())
    (folder / "env.json").write_text(json.dumps({**env, "recipes": [*read_recipe(str(own)).files]}))
    text = build_page(tmp_path / "runs", tmp_path / "out")[0].read_text()
    assert "<code>data.dataset.name</code>" not in text, "it is that of the base"
    assert f"recipe {own}" in text
    assert "Differs from its recipe&#39;s base in:" in text
