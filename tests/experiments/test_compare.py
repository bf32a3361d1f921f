"""Comparisons of tiny runs, and of summaries whose scores are known."""

import json
import shutil

import numpy as np
import pytest
import yaml
from scipy import stats

from cifarlab.core.errors import ConfigError
from cifarlab.experiments.compare import best_epoch_optimism, compare_arms, find_arm
from cifarlab.experiments.records import Comparison
from cifarlab.experiments.statistics import paired_difference
from cifarlab.experiments.wording import described
from cifarlab.runs.folder import Run
from cifarlab.runs.ledger import openings
from tests.tiny import TINY, once, summary_values, train_tiny


@pytest.fixture
def write_runs(tmp_path):
    """Runs that only say what they scored: `write_runs("a", [0.5, 0.6], ...)`."""

    def write(name, scores, chosen_on="val", curve=None, **summary):
        for seed, score in enumerate(scores):
            folder = tmp_path / "runs" / name / str(seed)
            folder.mkdir(parents=True)
            known = {"recipe": name, "seed": seed, "chosen_on": chosen_on, "val_top1": score}
            found = summary_values(**{**known, "seconds": 120.0, "data_fingerprint": "f", **summary})
            (folder / "summary.json").write_text(json.dumps(found))
            sections = "".join(f"{key}: {{}}\n" for key in ("model", "objective", "optim", "train"))
            (folder / "config.yaml").write_text("data: {val: 100}\n" + sections)
            rows = curve or [{"epoch": 1, "val/top1": score}]
            (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return tmp_path / "runs"

    return write


@pytest.mark.parametrize("place", ["mine/0", "mine"])
def test_a_folder_of_runs_that_is_a_run_is_no_traceback(write_runs, place):
    runs = write_runs("mine", [0.5])
    with pytest.raises(ConfigError, match="no recipe and no finished run 'mien' in"):
        find_arm("mien", runs / place, None)
    with pytest.raises(ConfigError, match=r"did you mean mine\?"):
        find_arm("mien", runs, None)


def test_a_comparison_is_scipys_over_seeds(write_runs):
    a, b, c = [0.50, 0.52, 0.51, 0.53], [0.54, 0.55, 0.55, 0.56], [0.51, 0.51, 0.52, 0.52]
    write_runs("a", a)
    write_runs("b", b)
    runs = write_runs("c", c)
    found = compare_arms([find_arm(name, runs, None) for name in "abc"], "val", "first")
    first, better, other = found.arms
    assert first.mean == pytest.approx(np.mean(a))
    assert first.sd == pytest.approx(np.std(a, ddof=1))
    assert first.difference is None
    assert first.minutes == pytest.approx(2)
    truth = stats.ttest_rel(b, a)
    record = better.difference
    assert record.p == pytest.approx(truth.pvalue)
    assert record.p_holm == pytest.approx(2 * truth.pvalue)
    interval = truth.confidence_interval()
    assert [record.low, record.high] == pytest.approx([interval.low, interval.high])
    assert record.verdict == f"better by {100 * (np.mean(b) - np.mean(a)):.2f} points"
    assert other.difference.verdict.startswith("no difference shown (smallest difference that 4 seeds")
    assert found.test_opened == 0
    below = compare_arms([find_arm(name, runs, None) for name in "abc"], "val", "previous").arms[2]
    assert below.difference.against == "b"
    assert below.difference.verdict.startswith("worse by")


def test_the_keys_in_json_are_these_in_this_order(write_runs):
    write_runs("a", [0.5, 0.52])
    runs = write_runs("b", [0.6, 0.61])
    found = compare_arms([find_arm(name, runs, None) for name in "ab"], "val", "first")
    plain = found.to_json()
    assert [*plain] == ["metric", "arms", "notes", "test_opened"]
    first, other = plain["arms"]
    assert [*first] == [*other] == [
        "name", "recipe", "chosen_on", "seeds", "scores", "n", "mean", "sd", "low", "high", "optimism",
        "minutes", "difference",
    ]  # fmt: skip
    assert first["difference"] is None
    assert [*other["difference"]] == [
        "from",
        "paired",
        "seeds",
        "mean",
        "low",
        "high",
        "p",
        "p_holm",
        "shown",
        "smallest",
        "more_seeds",
        "verdict",
    ]
    assert Comparison.model_validate(json.loads(json.dumps(plain, allow_nan=False))) == found


def test_one_seed_is_never_better(write_runs):
    write_runs("a", [0.1])
    runs = write_runs("b", [0.9])
    found = compare_arms([find_arm(name, runs, None) for name in "ab"], "val", "first").arms[1]
    assert found.difference.verdict.startswith("no difference shown (one seed")
    assert found.sd is None
    assert found.difference.p_holm is None
    json.dumps(found.to_json(), allow_nan=False)


def test_one_seed_among_several_takes_nothing_from_the_others():
    many = paired_difference([0.5, 0.52, 0.51], [0.4, 0.43, 0.41])
    single = paired_difference([0.5], [0.4])
    records = described([many, single])
    assert records[0].p_holm == pytest.approx(many.p)
    assert records[1].p_holm is None
    assert not records[1].shown


def test_what_is_never_shown_says_how_many_more_seeds_would():
    record = described([paired_difference([0.50, 0.53, 0.49], [0.49, 0.50, 0.50])])[0]
    assert f"about {record.more_seeds} more seeds would settle it" in record.verdict
    assert record.smallest is not None
    assert f"{100 * record.smallest:.2f} points" in record.verdict


def test_what_only_the_correction_hides_says_so():
    close = paired_difference([0.50, 0.53, 0.49, 0.51], [0.48, 0.50, 0.48, 0.48])
    assert close.p < 0.05
    assert described([close])[0].verdict.startswith("better by 2.25 points")
    records = described([close, *[paired_difference([0.5, 0.52], [0.51, 0.5])] * 5])
    assert records[0].verdict.startswith("no difference shown among 6 comparisons")


def test_luck_is_measured_where_the_choice_was_on_test(write_runs):
    scores = [(0.3, 0.5), (0.4, 0.45), (0.35, 0.55)]
    curve = [
        {"epoch": i, "val/top1": val, "test/top1": test} for i, (val, test) in enumerate(scores, start=1)
    ]
    runs = write_runs("a", [0.4], "test", curve, test_top1=0.55)
    assert best_epoch_optimism(Run(runs / "a" / "0"), "test") == pytest.approx(0.55 - 0.45)
    assert best_epoch_optimism(Run(runs / "a" / "0"), "val") is None


def test_notes_say_what_is_not_alike(write_runs):
    write_runs("a", [0.5, 0.6])
    runs = write_runs("b", [0.5, 0.6], "test", data_fingerprint="g", test_top1=0.5)
    for path in (runs / "b").glob("*/config.yaml"):
        path.write_text(path.read_text().replace("100", "200"))
    found = compare_arms([find_arm(name, runs, None) for name in "ab"], "val", "first")
    assert any("same data" in note for note in found.notes)
    assert any("data.split_seed" in note for note in found.notes)


@pytest.fixture(scope="module")
def two_seeds(tmp_path_factory):
    """Runs of the name `a` at two seeds, and one of `b`, in the folder of all runs."""
    runs = tmp_path_factory.mktemp("seeds") / "runs"
    for name, seed in (("a", 0), ("a", 1), ("b", 0)):
        train_tiny(runs / name / str(seed), "train.epochs=1", f"train.seed={seed}")
    return runs


@pytest.fixture
def edited(two_seeds, tmp_path):
    """The runs after a change in the configuration of seed 1 of `a`: `edited(function of plain data)`."""

    def edit(change, sort_keys=False):
        runs = shutil.copytree(two_seeds, tmp_path / "runs")
        path = runs / "a" / "1" / "config.yaml"
        plain = yaml.safe_load(path.read_text())
        change(plain)
        path.write_text(yaml.safe_dump(plain, sort_keys=sort_keys))
        return runs

    return edit


def halve_rate(plain):
    plain["optim"]["lr"] /= 2


def swap_augmentations(plain):
    plain["data"]["augment"] = dict(reversed(plain["data"]["augment"].items()))


def add_a_teacher(plain):
    plain["teacher"] = {"run": ["a"]}


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (halve_rate, "optim.lr: 0.001 in seed 0, 0.0005 in seed 1"),
        (swap_augmentations, "data.augment: order [crop, flip] in seed 0, order [flip, crop] in seed 1"),
        (add_a_teacher, "teacher: None in seed 0, {'run': "),
    ],
)
def test_seeds_of_two_configurations_are_not_pooled(edited, cifarlab, change, difference):
    runs = edited(change)
    for names in (("a", "b"), ("b", "a"), (runs / "a", "b")):
        status, out, err = cifarlab("compare", *names, "--metric", "test", "--runs", runs)
        assert (status, out, len(err.splitlines())) == (2, "", 1)
        assert f"a: seeds 0 and 1 have different configurations ({difference}" in err
        assert f"rename {runs / 'a' / '1'}, e.g. to {runs / 'a-2' / '1'}" in err
    assert openings(runs) == [], "refused before the test set was opened"
    # The advice leads out of it.
    (runs / "a-2").mkdir()
    (runs / "a" / "1").rename(runs / "a-2" / "1")
    assert cifarlab("compare", "a", "a-2", "--runs", runs)[0] == 0


def move(plain):
    plain["data"]["root"], plain["train"]["device"], plain["imports"] = "/elsewhere", "cuda", ["other.py"]


def age(plain):
    """As a version wrote it that did not have these keys."""
    del plain["optim"]["eps"], plain["data"]["skip_broken"], plain["data"]["augment"]["crop"]["padding"]


@pytest.mark.parametrize(("change", "sort_keys"), [(move, False), (age, False), (age, True)])
def test_seeds_that_differ_in_place_or_version_are_pooled(edited, cifarlab, change, sort_keys):
    status, out, err = cifarlab("compare", "a", "b", "--json", "--runs", edited(change, sort_keys))
    assert status == 0, err
    assert [arm["seeds"] for arm in json.loads(out)["arms"]] == [[0, 1], [0]]


def test_seeds_of_parts_that_are_not_known_here_are_compared_as_they_stand(write_runs):
    write_runs("a", [0.5, 0.6, 0.7])
    runs = write_runs("b", [0.5, 0.6])
    assert [*find_arm("a", runs, None).runs] == [0, 1, 2]
    path = runs / "a" / "2" / "config.yaml"
    path.write_text(path.read_text().replace("100", "200"))
    with pytest.raises(ConfigError, match=r"a: seeds 0 and 2 .*data\.val: 100 in seed 0, 200 in seed 2"):
        find_arm("a", runs, None)


def test_the_command_trains_what_is_missing_and_no_more(tmp_path, cifarlab):
    runs = tmp_path / "runs"
    mine = tmp_path / "mine.yaml"
    mine.write_text("base: demo\noptim: {weight_decay: 0.5}\n")
    words = ("compare", "demo", mine, *TINY, "--runs", runs)
    status, out, err = cifarlab(*words, "--seeds", 2, "--json")
    assert status == 0, err
    found = json.loads(out)
    assert [(arm["name"], arm["n"]) for arm in found["arms"]] == [("demo", 2), ("mine", 2)]
    for arm in found["arms"]:
        summaries = [Run(runs / arm["name"] / str(seed)).finished() for seed in arm["seeds"]]
        assert arm["scores"] == [summary.val_top1 for summary in summaries]
    assert openings(runs) == []
    before = (runs / "demo" / "0" / "last.pt").stat().st_mtime_ns
    status, out, _ = cifarlab(*words, "--seeds", 3)
    assert status == 0
    assert "difference" in out
    assert "opened 0 x" in out
    assert (runs / "demo" / "0" / "last.pt").stat().st_mtime_ns == before
    assert Run(runs / "mine" / "2").summary()
    # By the names of the runs alone; the test set is opened for each run once.
    for _ in range(2):
        status, out, _ = cifarlab("compare", "demo", runs / "mine", "--metric", "test", "--runs", runs)
        assert status == 0
        assert "test top-1 %" in out
        assert "opened 6 x" in out
    assert {entry["reader"] for entry in openings(runs)} == {"compare"}
    # Another configuration under the same name is refused before anything is trained.
    status, _, err = cifarlab(*once(*words, "--seeds", 4, "optim.lr=0.5"))
    assert status == 2
    assert err.rstrip().endswith("; keep these runs apart with --runs another_folder")
    assert not (runs / "demo" / "3").exists()


def test_further_seeds_of_runs_without_a_recipe_are_trained_like_the_first(tmp_path):
    runs = tmp_path / "runs"
    train_tiny(runs / "own" / "0", "optim.weight_decay=0.25")
    arm = find_arm("own", runs, 2)
    assert [config.optim.weight_decay for config in arm.configs.values()] == [0.25, 0.25]
    assert [config.train.seed for config in arm.configs.values()] == [0, 1]
    arm.runs[0].refuse_other(arm.configs[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["demo"], "at least two names"),
        (["demo", "demo", "--seeds", "2"], "twice"),
        (["demo", "dmeo"], "no finished run of demo"),
        (["demo", "dmeo", "--seeds", "2"], "did you mean demo?"),
        (["demo", "resnet18_baseline", "optim.lr=1"], "number of seeds"),
        (["demo", "resnet18_baseline", "train.seed=1", "--seeds", "2"], "contradict"),
        (["demo", "resnet18_baseline", "train={seed: 0}", "--seeds", "2"], "contradict"),
        (["demo", "resnet18_baseline", "--metric", "train"], "train"),
    ],
)
def test_a_mistake_is_one_line(cifarlab, tmp_path, arguments, message):
    status, _, err = cifarlab("compare", *arguments, "--runs", tmp_path / "runs")
    assert status == 2
    assert message in err
    assert not (tmp_path / "runs").exists()


def test_a_run_without_validation_says_how_to_compare_it(write_runs):
    write_runs("a", [None, None], "test", test_top1=0.5)
    runs = write_runs("b", [0.5, 0.6])
    with pytest.raises(ConfigError, match="--metric test"):
        compare_arms([find_arm(name, runs, None) for name in "ab"], "val", "first")


def test_runs_are_found_by_name_and_by_folder(write_runs):
    runs = write_runs("ladder/x", [0.5, 0.6])
    by_name, by_folder = find_arm("ladder/x", runs, None), find_arm(str(runs / "ladder/x"), runs, None)
    assert by_name.name == by_folder.name == "ladder/x"
    assert [*by_name.runs] == [0, 1]
    assert by_name.runs[0].runs == runs
