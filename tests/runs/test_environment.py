"""What env.json says that a result stands on: which code, which recipe."""

import hashlib
import subprocess
from pathlib import Path

import pytest

from cifarlab.config.recipes import FOLDER, read_recipe, recipe_names
from cifarlab.core.files import read_json
from cifarlab.experiments.compare import find_arm
from cifarlab.runs import environment
from cifarlab.runs.environment import GitState
from cifarlab.training.loop import train_run
from tests.tiny import TINY, once


def repository(folder: Path, *tracked: str) -> str:
    """Make a repository of a folder and commit files in it: the commit."""
    identity = ["-c", "user.name=n", "-c", "user.email=e"]
    for words in (["init", "-q"], ["add", *tracked], [*identity, "commit", "-q", "-m", "first"]):
        subprocess.run(["git", *words], cwd=folder, check=True)
    words = ["git", "rev-parse", "HEAD"]
    return subprocess.run(words, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A user's repository with a virtual environment in it, from which a command is given: its commit."""
    (tmp_path / "notes.txt").touch()
    package = tmp_path / ".venv" / "lib" / "cifarlab"
    package.mkdir(parents=True)
    installed = package / "environment.py"
    installed.touch()
    monkeypatch.setattr(environment, "__file__", str(installed))
    monkeypatch.chdir(tmp_path)
    return repository(tmp_path, "notes.txt")


def test_the_repository_around_a_virtual_environment_is_not_the_packages(project, tmp_path):
    found = environment.describe_environment({})
    assert found.git is None
    assert found.git_of_working_directory == GitState(commit=project, dirty=True)


def test_the_repository_that_tracks_the_package_is_its_own(tmp_path, monkeypatch):
    own, elsewhere = tmp_path / "own", tmp_path / "elsewhere"
    own.mkdir()
    elsewhere.mkdir()
    (own / "environment.py").touch()
    commit = repository(own, "environment.py")
    monkeypatch.setattr(environment, "__file__", str(own / "environment.py"))
    monkeypatch.chdir(elsewhere)
    found = environment.describe_environment({})
    assert found.git == GitState(commit=commit, dirty=False)
    assert found.git_of_working_directory is None
    # A hook of another repository calls the command.
    (elsewhere / "a").touch()
    repository(elsewhere, "a")
    monkeypatch.setenv("GIT_DIR", str(elsewhere / ".git"))
    assert environment.describe_environment({}).git == found.git


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_recipe_knows_the_files_that_it_was_read_from(tmp_path):
    (tmp_path / "low.yaml").write_text("base: demo\n")
    high = tmp_path / "high.yaml"
    high.write_text("base: low.yaml\noptim: {lr: 0.01}\n")
    places = [(str(high), high), (str(tmp_path / "low.yaml"), tmp_path / "low.yaml"),
              *((f"cifarlab/recipes/{name}.yaml", FOLDER / f"{name}.yaml")
                for name in ("demo", "resnet18_baseline"))]  # fmt: skip
    expected = [{"path": place, "sha256": digest(path)} for place, path in places]
    assert [*read_recipe(str(high)).files] == expected
    assert all(
        read_recipe(name).files[0]["path"] == f"cifarlab/recipes/{name}.yaml" for name in recipe_names()
    )


def recorded(run: Path) -> list:
    return read_json(run / "env.json")["recipes"]


def test_a_run_records_its_recipes_files_and_so_does_what_goes_on_from_it(tmp_path, cifarlab):
    own, runs = tmp_path / "own.yaml", tmp_path / "runs"
    own.write_text("base: demo\n")
    files = [*read_recipe(str(own)).files]
    words = [*once(*TINY, "train.epochs=1"), "--runs", runs]
    assert cifarlab("train", own, *words)[0] == 0
    assert recorded(runs / "own" / "0") == files
    assert cifarlab("refit", runs / "own" / "0")[0] == 0
    assert recorded(runs / "own_refit" / "0") == files
    own.unlink()  # Further seeds are trained as the first one was.
    arm = find_arm("own", runs, 2)
    train_run(arm.configs[1], arm.runs[1])
    assert recorded(runs / "own" / "1") == files
