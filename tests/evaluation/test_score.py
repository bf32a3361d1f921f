"""A run is scored on its own data: other classes, other pictures are refused before test is opened."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cifarlab.core import checkpoints
from cifarlab.core.errors import ConfigError
from cifarlab.data.splits import load_splits
from cifarlab.evaluation import sealed
from cifarlab.evaluation.analysis.analyze import analyze
from cifarlab.evaluation.score import evaluate
from cifarlab.experiments.refit import refit
from cifarlab.runs.ledger import openings
from tests.tiny import train_tiny


def add_class(root: Path, name: str, seed: int) -> None:
    """Ten pictures in train, four in test."""
    rng = np.random.default_rng(seed)
    for part, count in (("train", 10), ("test", 4)):
        (root / part / name).mkdir(parents=True)
        for i in range(count):
            picture = Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8))
            picture.save(root / part / name / f"{i}.png")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run on a folder of three classes, and that folder; each test works on copies."""
    folder = tmp_path_factory.mktemp("trained")
    for seed, name in enumerate(("cat", "dog", "owl")):
        add_class(folder / "pictures", name, seed)
    overrides = ("data.dataset=folder", f"data.root={folder / 'pictures'}", "data.val=6", "train.epochs=1")
    train_tiny(folder / "runs" / "a" / "0", *overrides)
    train_tiny(
        folder / "runs" / "small" / "0", *overrides, "data.store_size=16", "data.classes=2", "data.val=4"
    )
    return folder


@pytest.fixture
def copied(trained, tmp_path):
    """(the run, a copy of its pictures), both elsewhere."""
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    return tmp_path / "runs" / "a" / "0", tmp_path / "pictures"


def with_another_class(root):
    add_class(root, "ant", 9)  # Before all others: each label moves by one.


def with_a_class_exchanged(root):
    for part in ("train", "test"):
        shutil.rmtree(root / part / "owl")
    add_class(root, "ant", 9)


def with_a_train_picture_less(root):
    (root / "train" / "cat" / "0.png").unlink()


def with_too_few_train_pictures_to_split(root):
    for name in ("cat", "dog", "owl"):
        for i in range(8):
            (root / "train" / name / f"{i}.png").unlink()


def with_a_validation_part(root):
    shutil.copytree(root / "test", root / "val")


CHANGES = [
    (with_another_class, r"has 3 classes, the data set .*pictures has 4; .* --root"),
    (with_a_class_exchanged, r"calls class 0 'cat', the data set .*pictures 'ant': other classes; .* --root"),
    (with_a_train_picture_less, r"train of the data set .*pictures is not what .* was trained on .* --root"),
    (with_a_validation_part, r"val of the data set .*pictures is not what .* was trained on .* --root"),
    (with_too_few_train_pictures_to_split, r"train of the data set .* is not what .* was trained on"),
]


@pytest.mark.parametrize(("change", "message"), CHANGES, ids=lambda value: getattr(value, "__name__", ""))
@pytest.mark.parametrize("reader", ["eval", "compare"])
def test_the_test_part_of_other_data_stays_sealed(copied, change, message, reader):
    run, root = copied
    change(root)
    with pytest.raises(ConfigError, match=message):
        evaluate(run, split="test", device="cpu", root=str(root), reader=reader)
    assert openings(run.parents[1]) == []


@pytest.mark.parametrize("command", ["eval", "analyze"])
def test_other_classes_are_a_mistake_that_one_line_tells(copied, cifarlab, command):
    run, root = copied
    with_another_class(root)
    status, _, err = cifarlab(command, run, "--split", "test", "--root", root, "--device", "cpu")
    assert status == 2
    assert "Traceback" not in err
    assert "has 3 classes, the data set" in err.splitlines()[-1]
    assert openings(run.parents[1]) == []


def test_other_classes_are_refused_where_test_came_alone(copied):
    run, root = copied
    with_another_class(root)
    for picture in (root / "train").rglob("*.png"):
        picture.unlink()
    with pytest.raises(ConfigError, match="has 3 classes"):
        evaluate(run, split="test", device="cpu", root=str(root))
    assert openings(run.parents[1]) == []


def test_a_run_is_scored_where_only_test_can_be_read(copied, cifarlab):
    run, root = copied
    for picture in (root / "train").rglob("*.png"):
        picture.unlink()
    found = evaluate(run, split="test", device="cpu", root=str(root))
    assert found.pictures == 12
    assert found.temperature is None
    assert "no temperature is fitted" in found.warnings[0]
    # An analysis needs the training pictures: without them it opens nothing.
    status, _, err = cifarlab("analyze", run, "--split", "test", "--root", root, "--device", "cpu")
    assert status == 2
    assert "holds no pictures" in err
    assert [entry["reader"] for entry in openings(run.parents[1])] == ["eval"]


@pytest.mark.parametrize("name", ["a", "small"])
def test_a_run_is_scored_on_its_data_wherever_they_lie(copied, trained, name):
    """At the size at which it kept them, and of its classes only."""
    run, root = copied[0].parents[1] / name / "0", copied[1]
    there = evaluate(run, split="test", device="cpu", root=str(trained / "pictures"))
    here = evaluate(run, split="test", device="cpu", root=str(root.rename(root.with_name("moved"))))
    assert here.temperature is not None
    assert here.warnings == []
    changing = {"images_per_second": 0.0, "test_opened": {}}
    assert here.changed(**changing) == there.changed(**changing)


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_what_is_said_of_the_training_pictures_is_said_of_every_score(copied, monkeypatch, split):
    def told(*given):
        return replace(load_splits(*given), warnings=("altered",))

    monkeypatch.setattr(sealed, "load_splits", told)
    assert evaluate(copied[0], split=split, device="cpu").warnings == ["altered"]
    if split == "test":
        assert analyze(copied[0], split=split, near=False, device="cpu").report.warnings == ["altered"]


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_validation_part_is_not_taken_for_test_when_test_is_gone(trained, tmp_path, split):
    """Without test/ a folder's val/ is its test part, and what validates is split off from train."""
    root = shutil.copytree(trained / "pictures", tmp_path / "pictures")
    shutil.copytree(root / "test", root / "val")
    (root / "val" / "cat" / "0.png").unlink()
    run, _ = train_tiny(
        tmp_path / "runs" / "a" / "0",
        "data.dataset=folder",
        f"data.root={root}",
        "data.val=6",
        "train.epochs=1",
    )
    assert evaluate(run.folder, split=split, device="cpu").pictures == (11 if split == "val" else 12)
    before = openings(tmp_path / "runs")
    shutil.rmtree(root / "test")
    with pytest.raises(ConfigError, match=r"val of the data set .* is not what .* was trained on"):
        evaluate(run.folder, split=split, device="cpu")
    assert openings(tmp_path / "runs") == before


@pytest.mark.parametrize("command", [("plot",), ("analyze", "--device", "cpu")], ids=lambda words: words[0])
def test_no_picture_that_was_trained_on_is_shown_as_held_out(copied, trained, cifarlab, command):
    """Where train has changed, what was split off may be among what the model has learned."""
    run, root = copied
    with_a_train_picture_less(root)
    status, _, err = cifarlab(*command, run, "--root", root)
    assert status == 2
    assert "is not what" in err.splitlines()[-1]
    assert not [*run.glob("*.png")]
    assert cifarlab(*command, run, "--root", trained / "pictures")[0] == 0
    assert cifarlab("plot", run, "--no-gallery")[0] == 0


@pytest.mark.parametrize(
    "words",
    [
        ("eval",), ("eval", "--split", "test"), ("analyze",), ("analyze", "--split", "test"), ("plot",),
        ("ensemble", "--split", "test"), ("audit",),
    ],
    ids=" ".join,
)  # fmt: skip
def test_data_that_were_moved_are_named_with_the_option(trained, tmp_path, cifarlab, words):
    root = shutil.copytree(trained / "pictures", tmp_path / "pictures")
    runs = [
        train_tiny(
            tmp_path / "runs" / "a" / str(seed), "data.dataset=folder", f"data.root={root}", "data.val=6",
            "train.epochs=1", "data.split_seed=0", f"train.seed={seed}",
        )[0].folder
        for seed in range(2 if words[0] == "ensemble" else 1)
    ]  # fmt: skip
    root.rename(tmp_path / "elsewhere")
    before = openings(tmp_path / "runs")
    command, *options = words
    options += ["--device", "cpu"] if command != "plot" else []
    status, _, err = cifarlab(command, *runs, *options)
    assert status == 2
    assert f"data.root: {root} does not exist" in err.splitlines()[-1]
    assert "--root FOLDER" in err.splitlines()[-1]
    assert openings(tmp_path / "runs") == before
    status, _, err = cifarlab(command, *runs, *options, "--root", tmp_path / "elsewhere")
    assert status == 0, err


def test_a_root_that_the_data_set_does_not_read_may_be_gone(tmp_path):
    run, _ = train_tiny(tmp_path / "runs" / "a" / "0", "train.epochs=1", f"data.root={tmp_path / 'nowhere'}")
    assert evaluate(run.folder, split="val", device="cpu").pictures == 100
    assert evaluate(run.folder, split="test", device="cpu").pictures == 100


@pytest.mark.parametrize("split", ["train", "val"])
def test_pictures_that_came_later_are_not_taken_for_those_that_were_held_out(copied, split):
    run, root = copied
    with_a_validation_part(root)
    with pytest.raises(ConfigError, match=r"val of the data set .* is not what"):
        evaluate(run, split=split, device="cpu", root=str(root))


def test_other_pictures_are_not_refitted(copied, trained):
    run, root = copied
    config = run / "config.yaml"
    config.write_text(config.read_text().replace(str(trained / "pictures"), str(root)))
    best = checkpoints.load_checkpoint(run / "best.pt", ())
    best["config"]["data"]["root"] = str(root)
    checkpoints.save_checkpoint(run / "best.pt", best)
    with_a_train_picture_less(root)
    with pytest.raises(ConfigError, match=r"train of the data set .* is not what"):
        refit(run)
    assert not (run.parents[1] / "a_refit").exists()


def test_a_path_with_dots_is_the_folder_that_it_means(copied, monkeypatch):
    run, root = copied
    elsewhere = run.parents[1] / "b" / "1"
    elsewhere.mkdir(parents=True)
    monkeypatch.chdir(elsewhere)
    evaluate("../../a/0", split="test", device="cpu", root=str(root))
    assert [entry["run"] for entry in openings(run.parents[1])] == ["a/0"]
    monkeypatch.chdir(run.with_name("1").mkdir() or run.with_name("1"))
    assert evaluate("../0", split="test", device="cpu", root=str(root)).test_opened == {
        "run": 2,
        "runs": 2,
    }
