"""Code that lies with a run, or is named by it, is never run unless the caller names it."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import cifarlab as package
from cifarlab import BACKBONES
from cifarlab.config.imports import _forget, module_of
from cifarlab.config.recipes import read_recipe
from cifarlab.core.errors import ConfigError
from cifarlab.experiments.compare import find_arm
from cifarlab.runs.folder import Run
from cifarlab.training.setup import prepare
from tests.tiny import PARTS, tiny_config, train_tiny

# The tiny backbone under another name; a file beside it tells that it was run.
CODE = f"""
from pathlib import Path

Path(__file__).with_suffix(".run").touch()
source = Path({str(PARTS)!r}).read_text()
exec(source.replace("def tiny(", "def strange("))
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two seeds that share their validation pictures."""
    runs = tmp_path_factory.mktemp("trained") / "runs"
    for seed in (0, 1):
        train_tiny(runs / "a" / str(seed), "data.split_seed=0", f"train.seed={seed}", "train.epochs=1")
    return runs


@pytest.fixture
def code(tmp_path, monkeypatch):
    """A file that registers a part of its own; what it has registered is forgotten after."""
    monkeypatch.setattr(BACKBONES, "_parts", dict(BACKBONES._parts))
    modules = set(sys.modules)
    path = tmp_path / "strange_parts.py"
    path.write_text(CODE)
    yield path
    for name in {*sys.modules} - modules:
        if name.startswith("cifarlab_imports.strange_parts"):
            del sys.modules[name]


def was_run(code: Path) -> bool:
    return code.with_suffix(".run").exists()


def renamed(trained: Path, runs: Path, code: Path, backbone: str) -> Path:
    """Runs that name a file of code: as somebody else may have made them."""
    shutil.copytree(trained, runs)
    for folder in sorted((runs / "a").iterdir()):
        run = Run(folder)
        config = run.plain_config()
        config["imports"] = [str(code)]
        config["model"]["backbone"]["name"] = backbone
        run.config_path.write_text(yaml.safe_dump(config, sort_keys=False))
        torch.save({**torch.load(run.best_path, weights_only=True), "config": config}, run.best_path)
    return runs


@pytest.fixture
def runs(trained, tmp_path, code, monkeypatch):
    """Runs whose backbone only the file registers; the working folder is the one that holds them."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save("a.png")
    shutil.copytree(renamed(trained, tmp_path / "runs", code, "strange") / "a", tmp_path / "runs" / "b")
    return tmp_path / "runs"


@pytest.fixture
def harmless(trained, tmp_path, code):
    """Runs that name the file and have no need of it."""
    return renamed(trained, tmp_path / "runs", code, "tiny")


COMMANDS = [
    ["eval", "runs/a/0"],
    ["predict", "runs/a/0", "a.png"],
    ["plot", "runs/a/0"],
    ["analyze", "runs/a/0", "--no-near"],
    ["audit", "runs/a/0", "--no-near"],
    ["ensemble", "runs/a/0", "runs/a/1"],
    ["soup", "runs/a/0", "runs/a/1", "--name", "c"],
    ["refit", "runs/a/0"],
    ["compare", "a", "b", "--metric", "test"],
    ["compare", "a", "b", "--seeds", "2"],
]


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words))
def test_a_command_runs_no_code_but_what_it_is_told_to(runs, code, cifarlab, words):
    status, _, err = cifarlab(*words)
    assert status == 2, err
    assert len(err.splitlines()) == 1, err
    assert f"from {code}, which are not run automatically; if you trust them, name each with --imports" in err
    assert not was_run(code)
    status, _, err = cifarlab(*words, "--imports", code.name)
    assert status == 0, err
    assert was_run(code)


def test_code_that_is_named_and_not_needed_is_not_run(harmless, tmp_path, code, cifarlab, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words in (["eval", "runs/a/0", "--split", "test"], ["refit", "runs/a/0"], ["report", "runs"]):
        status, _, err = cifarlab(*words)
        assert status == 0, err
    # What is trained from it, in processes of their own perhaps, does not name it any more.
    assert str(code) in Run(harmless / "a" / "0").plain_config()["imports"]
    assert str(code) not in Run(harmless / "a_refit" / "0").plain_config()["imports"]
    assert not any(str(code) in config.imports for config in find_arm("a", harmless, 3).configs.values())
    assert not was_run(code)


def test_a_run_is_loaded_with_what_the_caller_names(runs, code):
    folder = runs / "a" / "0"
    with pytest.raises(ConfigError, match=r"best\.pt has custom parts .*in Python: imports="):
        package.load(folder)
    moved = code.rename(code.with_name("strange_parts_moved.py"))
    model = package.load(folder, imports=[moved])
    assert model(torch.zeros(2, 3, 32, 32)).logits.shape == (2, 100)
    assert was_run(moved)
    # The same process knows it now.
    package.load(folder)


def test_runs_of_ones_own_are_trained_on_with_the_file_that_is_named(runs, code):
    arm = find_arm("a", runs, 3, imports=str(code))
    assert [config.imports for config in arm.configs.values()] == [(str(code),)] * 3


def test_a_teachers_code_is_the_recipes_to_name(runs, code):
    words = ("objective={distill: {}}", f"teacher.run={runs / 'a' / '0'}", "data.split_seed=0")
    with pytest.raises(ConfigError, match=r"^teacher\.run: .*name each under the recipe's imports "):
        prepare(tiny_config(*words))
    assert not was_run(code)
    assert prepare(tiny_config(*words, f"imports=[{code}]")).teacher is not None


def test_the_report_runs_no_recipe_that_a_run_names(trained, tmp_path, code, cifarlab):
    own, runs = tmp_path / "own.yaml", tmp_path / "runs"
    own.write_text(
        f"imports: [{code.name}]\nmodel: {{backbone: strange}}\nobjective: {{cross_entropy: {{}}}}\n"
    )
    shutil.copytree(trained, runs)
    env = json.loads((runs / "a" / "0" / "env.json").read_text())
    (runs / "a" / "0" / "env.json").write_text(json.dumps({**env, "recipes": [*read_recipe(str(own)).files]}))
    words = ["report", runs, "--out", tmp_path / "out"]
    assert cifarlab(*words)[0] == 0
    page = tmp_path / "out" / "report.html"
    assert f"from {code}, which are not run automatically" in page.read_text()
    assert not was_run(code)
    assert cifarlab(*words, "--imports", code)[0] == 0
    assert "Differs from its recipe in:" in page.read_text()
    assert was_run(code)


LOSS = """
from cifarlab import LOSSES

@LOSSES.register()
def own_loss(batch, output):
    return output.logits.square().mean()
"""


@pytest.fixture
def gone(tmp_path, monkeypatch):
    """A run whose loss, average and mixer are registered no more, as if its file had been lost."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "own_loss.py"
    path.write_text(LOSS)
    words = (f"imports=[{path}]", "objective={cross_entropy: {}, own_loss: {}}", "train.epochs=1")
    run, _ = train_tiny(tmp_path / "runs" / "a" / "0", *words)
    path.unlink()
    _forget(module_of(str(path)))
    plain = run.plain_config()
    plain["data"]["mix"] = {"own_mixer": {}}
    plain["train"]["average"] = {"name": "own_average"}
    run.config_path.write_text(yaml.safe_dump(plain, sort_keys=False))
    torch.save({**torch.load(run.best_path, weights_only=True), "config": plain}, run.best_path)
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save("a.png")
    return run.folder


def test_a_model_needs_nothing_of_the_experiment_but_its_own_section(gone, cifarlab):
    images = torch.zeros(2, 3, 32, 32)
    model = package.load(gone)
    assert model(images).logits.shape == (2, 100)
    kept = torch.load(gone / "best.pt", weights_only=True)["model"]
    assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())
    for words in (["predict", gone, "a.png"], ["eval", gone], ["eval", gone, "--split", "test"],
                  ["analyze", gone, "--no-near"], ["plot", gone]):  # fmt: skip
        status, _, err = cifarlab(*words)
        assert status == 0, err
    student = tiny_config("objective={distill: {}}", f"teacher.run={gone}")
    assert prepare(student).teacher is not None


def test_what_needs_the_whole_experiment_says_what_is_gone(gone, cifarlab):
    status, _, err = cifarlab("refit", gone)
    assert status == 2, err
    assert len(err.splitlines()) == 1, err
    assert "own_" in err, err


@pytest.mark.parametrize(
    ("section", "value"),
    [
        *((section, value) for section in ("model", "data", "train") for value in (None, 3, [])),
        ("model", {}),
        ("model", {"backbone": 3}),
        ("data", {"image_size": "a"}),
        ("data", {"image_size": 1}),
        ("train", {"seed": -1}),
    ],
)
def test_a_damaged_section_is_a_mistake_in_a_line(trained, tmp_path, section, value):
    run = Run(shutil.copytree(trained / "a" / "0", tmp_path / "0"))
    state = torch.load(run.best_path, weights_only=True)
    torch.save({**state, "config": {**state["config"], section: value}}, run.best_path)
    with pytest.raises(ConfigError, match=rf"best\.pt: {section}") as caught:
        package.load(run.folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("config", 5, "its configuration is damaged"),
        ("config", ["a"], "its configuration is damaged"),
        ("row", {"epoch": "last"}, "row.epoch"),
        ("classes", [], "classes"),
        ("store_size", 10**6, "store_size"),
    ],
)
def test_what_lies_beside_the_weights_is_checked(trained, tmp_path, key, value, message):
    run = Run(shutil.copytree(trained / "a" / "0", tmp_path / "0"))
    torch.save({**torch.load(run.best_path, weights_only=True), key: value}, run.best_path)
    with pytest.raises(ConfigError, match=rf"best\.pt: .*{message}") as caught:
        package.load(run.folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"precision": "fp8"}, "train.precision"),
        ({"seed": True}, "train.seed"),
        ({"select": 3}, "train.select"),
    ],
)
def test_an_error_that_code_cannot_mend_asks_nobody_to_run_it(harmless, code, train, message):
    """An older version may not have saved a key: it counts as its default."""
    run = Run(harmless / "a" / "0")
    state = torch.load(run.best_path, weights_only=True)
    plain = {**state["config"], "train": train}
    torch.save({**state, "config": plain}, run.best_path)
    with pytest.raises(ConfigError, match=rf"best\.pt: {message}: ") as caught:
        package.load(run.folder)
    assert str(code) not in str(caught.value)
    torch.save({**state, "config": {**plain, "train": {}}}, run.best_path)
    assert package.load(run.folder).store_size == 32


def test_a_soup_that_cannot_be_kept_removes_nothing(gone, cifarlab, tmp_path):
    shutil.copytree(gone, gone.with_name("1"))
    kept = tmp_path / "runs" / "s" / "0"
    shutil.copytree(gone, kept)
    before = sorted(path.name for path in kept.iterdir())
    status, _, err = cifarlab("soup", gone, gone.with_name("1"), "--name", "s", "--fresh")
    assert status == 2, err
    assert "own_" in err, err
    assert sorted(path.name for path in kept.iterdir()) == before


@pytest.mark.parametrize("words", [["plot", "runs/a/0", "--no-gallery"], ["audit", "synthetic"], ["report"]])
def test_a_file_that_is_named_is_run_or_missed_at_once(runs, code, cifarlab, words):
    status, _, err = cifarlab(*words, "--imports", "none.py")
    assert status == 2
    assert "none.py: FileNotFoundError" in err
