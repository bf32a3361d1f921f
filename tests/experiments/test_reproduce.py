"""The tutorial's table: as run beside corrected, what its lessons are worth, what cannot be trained here."""

import json
import shutil
from pathlib import Path

import pytest

from cifarlab.config.merge import differences
from cifarlab.experiments.records import Reproduction
from cifarlab.experiments.tutorial import AS_RUN, experiments
from cifarlab.report.reproduction import write_page
from cifarlab.runs.folder import Run
from cifarlab.runs.log import read_log
from tests import settings as tutorial
from tests.tiny import TINY, once, train_tiny

ROOT = Path(__file__).parents[2]
SMALL = [*(word for word in TINY if "data.val" not in word), "data.limit=150"]
BASE, SMOOTH, LARGE = "resnet18_baseline", "resnet18_baseline_lbsmooth", "resnet18_pretrained_arcface_224x224"


def only(*which: str) -> list[str]:
    return [word for name in which for word in ("--only", name)]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Arguments of a reproduction in seconds; what it trains stays for the tests after."""
    runs = tmp_path_factory.mktemp("reproduce") / "runs"
    return [*SMALL, "--runs", runs, "--seeds", 2, *only(BASE, SMOOTH, LARGE)], runs


PUBLISHED = {
    BASE: 44.26, "resnet18_augment": 36.48, SMOOTH: 44.81, "resnet18_baseline_wd01": 40.12,
    "resnet18_pretrained": 56.70, "resnet18_pretrained_arcface": 57.92, LARGE: 79.57,
    "resnet18_pretrained_arcface_kd": 57.37, "resnet18_pretrained_arcface_mst": None,
    "resnet50_pretrained_arcface": 61.76, "resnet50_pretrained_arcface_224x224": 81.21,
}  # fmt: skip


def settings(name):
    """The resolved configurations of an experiment: (as published, corrected)."""
    return tutorial.row(AS_RUN + name).dump(), tutorial.row(name).dump()


def test_the_experiments_are_the_tutorials():
    assert {name: each.published for name, each in experiments().items()} == PUBLISHED
    before = []
    for name, each in experiments().items():
        assert each.builds_on in (before or [None])
        before.append(name)


@pytest.mark.parametrize("name", PUBLISHED)
def test_as_published_an_experiment_has_the_codes_defects(name):
    as_run, corrected = settings(name)
    assert corrected["data"]["shuffle"]
    assert not as_run["data"]["shuffle"]
    assert (corrected["train"]["select"], as_run["train"]["select"]) == ("val", "test")
    assert as_run["data"]["val"] == 0
    assert as_run["optim"]["decay_norms"]
    assert not corrected["optim"]["decay_norms"]
    assert as_run["data"]["freeze_views"] == (name == "resnet18_augment")
    assert as_run["model"]["normalize"] == "none"
    assert (corrected["model"]["normalize"] == "imagenet") == ("pretrained" in name)
    if "arcface" in name:
        assert (as_run["model"]["head"]["scale"], corrected["model"]["head"]["scale"]) == (8, 16)
        assert as_run["objective"]["arcface"]["margin"] == 0.35
        assert as_run["objective"]["arcface"]["gradient"] == "straight_through"


# What a row changes of the one that it builds on, as published and corrected alike.
LESSONS = {
    SMOOTH: {"objective.cross_entropy.smoothing"},
    "resnet18_baseline_wd01": {"optim.weight_decay"},
    LARGE: {"data.image_size"},
    "resnet18_pretrained_arcface_mst": {"data.multi_scale"},
    "resnet50_pretrained_arcface": {"model.backbone.name"},
    "resnet50_pretrained_arcface_224x224": {"data.image_size"},
}


@pytest.mark.parametrize("name", LESSONS)
def test_a_lesson_has_the_same_two_ends_on_both_sides(name):
    base = experiments()[name].builds_on
    for above, below in zip(settings(name), settings(base), strict=True):
        assert set(differences(below, above)) == LESSONS[name]


def test_the_page_in_docs_is_that_of_its_figures(tmp_path):
    path = ROOT / "benchmarks" / "results" / "reproduce.json"
    found = Reproduction.read(path)
    # Written again it is the same, to the order of its keys.
    assert json.dumps(found.to_json(), indent=2) == path.read_text().rstrip()
    write_page(found, tmp_path / "reproduce.md")
    page = (ROOT / "docs" / "results" / "reproduce.md").read_text()
    rows = [line for line in (tmp_path / "reproduce.md").read_text().splitlines() if line.startswith("| `")]
    assert len(rows) == 21
    assert not [row for row in rows if row not in page]


def test_the_table_and_the_lessons(small, tmp_path, cifarlab):
    arguments, runs = small
    page = tmp_path / "page.md"
    status, out, err = cifarlab("reproduce", *arguments, "--budget", "short", "--json", "--page", page)
    assert status == 0, err
    found = json.loads(out)
    base, smooth, large = found["rows"]
    assert [row["name"] for row in found["rows"]] == [BASE, SMOOTH, LARGE]
    assert (base["as_run"]["chosen_on"], base["corrected"]["chosen_on"]) == ("test", "val")
    # As run: the best of all epochs on test, seed by seed.
    logs = [read_log(Run(runs / AS_RUN / BASE / str(seed)).metrics_path) for seed in range(2)]
    assert base["as_run"]["scores"] == [max(row["test/top1"] for row in log) for log in logs]
    for row in (base, smooth):
        apart = row["corrected"]["mean"] - row["as_run"]["mean"]
        assert row["difference"]["mean"] == pytest.approx(apart)
    (lesson,) = [each for each in found["lessons"] if each["name"] == SMOOTH]
    assert lesson["from"] == BASE
    assert lesson["published"] == pytest.approx(0.0055)
    for side in ("as_run", "corrected"):
        assert lesson[side]["mean"] == pytest.approx(smooth[side]["mean"] - base[side]["mean"])
    assert large["as_run"] is large["corrected"] is large["difference"] is None
    assert "224 px" in large["missing"]["as_run"]
    assert not (runs / LARGE).exists()
    text = page.read_text()
    assert f"| `{LARGE}` | 79.57 | not measured yet |" in text
    assert "2 epochs of 150 training pictures" in text
    assert page.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_what_is_trained_is_only_read(small, cifarlab):
    arguments, runs = small
    before = {path: path.stat().st_mtime_ns for path in runs.rglob("last.pt")}
    assert len(before) == 8
    status, out, _ = cifarlab("reproduce", *arguments, "--budget", "short")
    assert status == 0
    assert {path: path.stat().st_mtime_ns for path in runs.rglob("last.pt")} == before
    assert out.count(f"{LARGE}: not measured: ") == 1
    assert "+0.55" in out
    assert "44.26" in out


def test_runs_of_another_configuration_are_refused_before_anything_is_trained(small, cifarlab):
    arguments, runs = small
    words = [word for word in arguments if word != "train.epochs=2"]
    status, _, err = cifarlab("reproduce", *words, "--budget", "short", *only("resnet18_augment"))
    assert status == 2
    assert "another configuration" in err
    assert len(err.splitlines()) == 1
    assert not (runs / "resnet18_augment").exists()


def test_a_record_without_its_machine_hides_no_figures(small, tmp_path, cifarlab):
    arguments, runs = small
    copied = shutil.copytree(runs, tmp_path / "runs")
    (copied / AS_RUN / BASE / "0" / "env.json").write_text("{}")
    words = [copied if word is runs else word for word in arguments]
    page = tmp_path / "page.md"
    status, out, err = cifarlab("reproduce", *words, "--budget", "short", "--json", "--page", page)
    assert status == 0, err
    assert json.loads(out)["env"] == {
        "hardware": {}, "versions": {}, "precision": "", "time": "", "git": None}  # fmt: skip
    assert page.read_text().endswith("\nMeasured on an unknown machine.\n")


def test_an_unfinished_start_is_refused_before_anything_is_trained(tmp_path, cifarlab):
    start, _ = train_tiny(tmp_path / "start" / "0", "train.epochs=1")
    start.summary_path.unlink()
    small = [*once(*SMALL, "train.epochs=1"), "--runs", tmp_path / "runs", "--seeds", 1, "--budget", "short"]
    status, _, err = cifarlab("reproduce", *small, *only(BASE), "--start", start.folder)
    assert status == 2
    assert err == f"error: {start.folder}: not finished\n"
    assert not (tmp_path / "runs").exists()


def test_weights_of_ones_own_stand_in_for_imagenets(tmp_path, cifarlab):
    words = ["model.backbone=resnet18", "train.epochs=1"]
    start, _ = train_tiny(tmp_path / "start" / "0", *words)
    small = [word for word in once(*SMALL, "train.epochs=1") if "backbone" not in word]
    runs, page = tmp_path / "runs", tmp_path / "page.md"
    status, _, err = cifarlab(
        "reproduce", *small, "--runs", runs, "--seeds", 1, "--budget", "short",
        *only(BASE, "resnet18_pretrained"), "--start", start.folder, "--page", page,
    )  # fmt: skip
    assert status == 0, err
    for name in ("resnet18_pretrained", "as_run/resnet18_pretrained"):
        model = Run(runs / name / "0").plain_config()["model"]
        assert model["init"] == str(start.folder)
        assert model["backbone"]["pretrained"] is False
    assert Run(runs / BASE / "0").plain_config()["model"]["init"] is None
    assert "those of `demo` (1 epoch at 32 px) replace" in page.read_text()


def test_what_cannot_be_trained_here_is_named_and_the_rest_goes_on(tmp_path, cifarlab, monkeypatch):
    from cifarlab.core.errors import ConfigError
    from cifarlab.training import several_runs

    def no_weights(config, *arguments, **options):
        if config.model.normalize == "imagenet":
            raise ConfigError("no weights here; put them there")
        return train(config, *arguments, **options)

    train = several_runs.train_run
    monkeypatch.setattr(several_runs, "train_run", no_weights)
    small = [*once(*SMALL, "train.epochs=1"), "--runs", tmp_path, "--seeds", 1, "--budget", "short"]
    status, out, err = cifarlab("reproduce", *small, *only(BASE, "resnet18_pretrained"), "--json")
    assert status == 0, err
    base, pretrained = json.loads(out)["rows"]
    assert base["as_run"]
    assert base["corrected"]
    assert pretrained["as_run"]
    assert pretrained["corrected"] is None
    assert pretrained["missing"] == {"corrected": "no weights here"}
    assert "left out: no weights here; put them there" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (only("resnet18_base"), "did you mean resnet18_baseline?"),
        (["--page", "page.html"], "--page page.html"),
        (["--seeds", 2, "train.seed=1"], "contradict each other"),
        (["--start", "nowhere", *only("resnet18_pretrained")], "no such run"),
        ([*only(LARGE), "--budget", "short"], "no experiment could be measured"),
        (["optim.lrr=1"], "optim.lrr"),
    ],
)
def test_a_mistake_is_one_line(cifarlab, tmp_path, arguments, message):
    status, _, err = cifarlab("reproduce", *arguments, "--runs", tmp_path / "runs")
    assert status == 2
    assert message in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "runs").exists()
