"""The tutorial's table: as run beside corrected, what its lessons are worth, what cannot be trained here."""

import json
from pathlib import Path

import pytest

from cifarlab.metrics import read_log
from cifarlab.recipes import names, read
from cifarlab.report.reproduction import write_page
from cifarlab.reproduce import AS_RUN, experiments
from cifarlab.run import Run
from tests.tiny import TINY, train_tiny

ROOT = Path(__file__).parents[1]
SMALL = [*(word for word in TINY if "data.val" not in word), "train.epochs=2", "data.limit=150"]
BASE, SMOOTH, LARGE = "resnet18_baseline", "resnet18_baseline_lbsmooth", "resnet18_pretrained_arcface_224x224"


def only(*which: str) -> list[str]:
    return [word for name in which for word in ("--only", name)]


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Arguments of a reproduction in seconds; what it trains stays for the tests after."""
    runs = tmp_path_factory.mktemp("reproduce") / "runs"
    return [*SMALL, "--runs", runs, "--seeds", 2, *only(BASE, SMOOTH, LARGE)], runs


def test_every_experiment_has_a_recipe_as_run_and_a_corrected_one():
    found = experiments()
    assert found[0] == BASE and len(found) == 11
    assert set(found) <= set(names()) and {AS_RUN + name for name in found} <= set(names())
    for name in found:
        base = (read(AS_RUN + name).base or "").removeprefix(AS_RUN)
        assert base == name == BASE or found.index(base) < found.index(name)
        # Both sides start from one base, so that a lesson has the same two ends on each.
        assert name == BASE or read(name).base == base
        assert read(name).published == read(AS_RUN + name).published


def test_the_page_in_docs_is_that_of_its_figures(tmp_path):
    found = json.loads((ROOT / "benchmarks" / "results" / "reproduce.json").read_text())
    write_page(found, tmp_path / "reproduce.md")
    page = (ROOT / "docs" / "results" / "reproduce.md").read_text()
    rows = [line for line in (tmp_path / "reproduce.md").read_text().splitlines() if line.startswith("| `")]
    assert len(rows) == 21 and not [row for row in rows if row not in page]


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
    assert lesson["from"] == BASE and lesson["published"] == pytest.approx(0.0055)
    for side in ("as_run", "corrected"):
        assert lesson[side]["mean"] == pytest.approx(smooth[side]["mean"] - base[side]["mean"])
    assert large["as_run"] is large["corrected"] is large["difference"] is None
    assert "224 px" in large["missing"]["as_run"] and not (runs / LARGE).exists()
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
    assert "+0.55" in out and "44.26" in out


def test_runs_of_another_configuration_are_refused_before_anything_is_trained(small, cifarlab):
    arguments, runs = small
    words = [word for word in arguments if word != "train.epochs=2"]
    status, _, err = cifarlab("reproduce", *words, "--budget", "short", *only("resnet18_augment"))
    assert status == 2 and "another configuration" in err and len(err.splitlines()) == 1
    assert not (runs / "resnet18_augment").exists()


def test_weights_of_ones_own_stand_in_for_imagenets(tmp_path, cifarlab):
    words = ["model.backbone=resnet18", "train.epochs=1"]
    start, _ = train_tiny(tmp_path / "start" / "0", *words)
    small = [word for word in SMALL if "backbone" not in word]
    runs, page = tmp_path / "runs", tmp_path / "page.md"
    status, _, err = cifarlab(
        "reproduce", *small, "train.epochs=1", "--runs", runs, "--seeds", 1, "--budget", "short",
        *only(BASE, "resnet18_pretrained"), "--start", start.folder, "--page", page,
    )  # fmt: skip
    assert status == 0, err
    for name in ("resnet18_pretrained", "as_run/resnet18_pretrained"):
        model = Run(runs / name / "0").plain_config()["model"]
        assert model["init"] == str(start.folder) and model["backbone"]["pretrained"] is False
    assert Run(runs / BASE / "0").plain_config()["model"]["init"] is None
    assert "those of `demo` (1 epoch at 32 px) stand in" in page.read_text()


def test_what_cannot_be_trained_here_is_named_and_the_rest_goes_on(tmp_path, cifarlab, monkeypatch):
    from cifarlab.registry import ConfigError
    from cifarlab.together import crew

    def no_weights(config, *arguments):
        if config.model.normalize == "imagenet":
            raise ConfigError("no weights here; put them there")
        return train(config, *arguments)

    train = crew.train
    monkeypatch.setattr(crew, "train", no_weights)
    small = [*SMALL, "train.epochs=1", "--runs", tmp_path, "--seeds", 1, "--budget", "short"]
    status, out, err = cifarlab("reproduce", *small, *only(BASE, "resnet18_pretrained"), "--json")
    assert status == 0, err
    base, pretrained = json.loads(out)["rows"]
    assert base["as_run"] and base["corrected"] and pretrained["as_run"]
    assert pretrained["corrected"] is None and pretrained["missing"] == {"corrected": "no weights here"}
    assert "left out: no weights here; put them there" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (only("resnet18_base"), "did you mean resnet18_baseline?"),
        (["--page", "page.html"], "end it in .md"),
        (["--seeds", 2, "train.seed=1"], "contradict each other"),
        (["--start", "nowhere", *only("resnet18_pretrained")], "no such run"),
        ([*only(LARGE), "--budget", "short"], "nothing to show"),
        (["optim.lrr=1"], "optim.lrr"),
    ],
)
def test_a_mistake_is_one_line(cifarlab, tmp_path, arguments, message):
    status, _, err = cifarlab("reproduce", *arguments, "--runs", tmp_path / "runs")
    assert status == 2 and message in err and len(err.splitlines()) == 1
    assert not (tmp_path / "runs").exists()
