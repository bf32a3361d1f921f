"""Results of whole runs on their way from JSON to pages, recipe headers, the list and README."""

import itertools
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from cifarlab.config.recipes import all_recipes, read_recipe, resolve
from cifarlab.core.errors import ConfigError
from cifarlab.experiments.tutorial import experiments
from cifarlab.runs.folder import Run
from tests.tiny import TINY, summary_values

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))
import pages  # noqa: E402
import rates  # noqa: E402
import whole  # noqa: E402

BASE, AS_RUN = "resnet18_baseline", "as_run/resnet18_baseline"
QUEUE = f"""
# two names
{BASE} 0 {BASE}
{BASE} 1 {BASE}
{BASE} 2 {BASE}
{AS_RUN} 0 {AS_RUN}
{AS_RUN}_lbsmooth 0 {AS_RUN} objective.cross_entropy.smoothing=0.1
"""
RATE = rates.Rate(1500.0, 6.0, 0.0, None, 30, {"32": 1500.0}, 2, "some", "abc", "2026-11-30")


def finish(folder, name, seed, test, overrides=(), recipe=None, curve=None):
    """Write the files of a finished run of a recipe: `curve` is its test score by epoch, if those chose."""
    recipe = recipe or name
    run = Run(folder / name / str(seed), recipe=recipe, name=name)
    run.folder.mkdir(parents=True)
    config = resolve(read_recipe(recipe), [*overrides, f"train.seed={seed}", "data.root=/some/where"])
    run.write_config(config)
    rows = [
        {"epoch": epoch + 1, "step": epoch + 1, ("test/top1" if curve else "val/top1"): score}
        for epoch, score in enumerate(curve or [0.3] * 200)
    ]
    run.metrics_path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    summary = summary_values(
        recipe=recipe, seed=seed, epochs_run=len(rows), chosen_on=config.train.select,
        val_top1=None if curve else test + 0.01, test_top1=test,
        seconds=99_999.0, images_per_second=45_000 * len(rows) / 99_999.0,
    )  # fmt: skip
    run.summary_path.write_text(json.dumps(summary))
    env = {
        "hardware": {"cores": 2, "device": "cpu"}, "versions": {"torch": "2.15.0"}, "time": "2026-11-30",
        "git": {"commit": "0123456789abcdef"},
        "command": ["/home/me/cifarlab/__main__.py", "--runs", "/x/runs"],
    }  # fmt: skip
    run.env_path.write_text(json.dumps(env))
    return run


@pytest.fixture
def place(tmp_path):
    """A repository of a queue, results and one page."""
    results = tmp_path / "benchmarks" / "results"
    (results / "whole").mkdir(parents=True)
    (tmp_path / "benchmarks" / "queue.txt").write_text(QUEUE)
    (tmp_path / "docs" / "results").mkdir(parents=True)
    (tmp_path / "README.md").write_text("no figures\n")
    return tmp_path


def known(place, **changes):
    return replace(pages.load(place), **changes)


def test_pages_headers_and_readme_are_those_of_the_results():
    """The repository's own: `python benchmarks/pages.py` corrects what this names."""
    found = pages.load()
    assert [str(path.relative_to(ROOT)) for path in pages.outdated(found)] == []
    assert pages.is_drawn(pages.chart_points(found), ROOT / "docs" / "results" / "whole.png")
    assert found.results.left_out == (), "results of another configuration: measure them again"
    marked = [path for path in pages.pages(ROOT) if "<!-- generated:" in path.read_text()]
    assert {path.name for path in marked} == {"README.md", "recipes.md", "whole.md", "reproduce.md"}


def test_no_kept_result_names_a_place_on_a_machine():
    for path in (ROOT / "benchmarks" / "results" / "whole").rglob("*.json"):
        assert whole.without_machine(json.loads(path.read_text())) == json.loads(path.read_text()), path


def test_changing_one_number_of_a_result_is_noticed(place):
    shutil.copy(ROOT / "benchmarks" / "results" / "transfer.json", place / "benchmarks" / "results")
    path = place / "docs" / "page.md"
    entry = "arms.from scratch.*.test_top1 as percent1"
    path.write_text(f"<!-- result: transfer.json {entry} --><!-- /result -->")
    found = known(place, recipes=())
    path.write_text(pages.outdated(found)[path])
    assert ">39.9<" in path.read_text()
    assert pages.outdated(found) == {}
    results = place / "benchmarks" / "results" / "transfer.json"
    changed = json.loads(results.read_text())
    changed["arms"]["from scratch"][0]["test_top1"] += 0.01
    results.write_text(json.dumps(changed))
    assert ">40.2<" in pages.outdated(known(place, recipes=()))[path]


def test_a_result_has_its_interval_and_says_how_many_seeds_are_missing(place):
    folder = place / "benchmarks" / "results" / "whole"
    finish(folder, BASE, 0, 0.40)
    assert known(place).shown[BASE].summary == "40.00 (1 of 3 seeds)"
    finish(folder, BASE, 2, 0.42)
    assert known(place).shown[BASE].seeds == "2 of 3 seeds"
    finish(folder, BASE, 1, 0.415)
    result = known(place).shown[BASE]
    truth = stats.ttest_1samp([0.40, 0.42, 0.415], 0).confidence_interval(0.95)
    assert [result.test.low, result.test.high] == pytest.approx([truth.low, truth.high])
    assert result.summary == f"41.17 [{100 * truth.low:.2f}, {100 * truth.high:.2f}] (3 seeds)"
    assert [(run.seed, run.pictures, run.evaluations) for run in result.runs] == [
        (seed, 9_000_000, 200) for seed in range(3)
    ]


def test_a_result_of_another_configuration_is_not_shown_and_is_named(place):
    folder = place / "benchmarks" / "results" / "whole"
    finish(folder, BASE, 0, 0.40, ["optim.lr=0.5"])
    finish(folder, BASE, 1, 0.41)
    finish(folder, f"{AS_RUN}_lbsmooth", 0, 0.5, recipe=AS_RUN, curve=[0.1] * 9 + [0.5])
    found = known(place).results
    assert [run.seed for run in found.shown[BASE].runs] == [1]
    assert list(found.shown) == [BASE]
    first, second = found.left_out
    assert first.startswith(f"{AS_RUN}_lbsmooth/0: ")
    assert "smoothing: 0.0 then, 0.1 now" in first
    assert second.startswith(f"{BASE}/0: ")
    assert "optim.lr: 0.5 then, 0.001 now" in second
    assert str(place) not in first + second


def test_the_path_the_device_and_the_seed_are_no_other_configuration(place):
    folder = place / "benchmarks" / "results" / "whole"
    finish(folder, BASE, 2, 0.40, ["train.device=cpu"])
    assert known(place).results.left_out == ()
    assert list(known(place).shown) == [BASE]


def test_options_of_later_versions_count_as_their_defaults(place):
    run = finish(place / "benchmarks" / "results" / "whole", BASE, 0, 0.40)
    text = run.config_path.read_text()
    older = "".join(line for line in text.splitlines(True) if not line.startswith("  layer_decay:"))
    assert older != text
    run.config_path.write_text(older)
    assert list(known(place).shown) == [BASE]


def damage(run, **changes):
    run.summary_path.write_text(json.dumps({**json.loads(run.summary_path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda run: damage(run, test_top1=None), "was not scored on test"),
        (lambda run: run.summary_path.write_text("{"), "cannot be read"),
        (lambda run: run.env_path.unlink(), "no such file"),
        (lambda run: run.folder.rename(run.folder.with_name("5b")), "not called by a seed"),
        (lambda run: run.folder.parent.rename(run.folder.parents[1] / "other"), "does not name it"),
    ],
)
def test_what_cannot_be_shown_is_named_in_a_line(place, spoil, message):
    spoil(finish(place / "benchmarks" / "results" / "whole", BASE, 0, 0.40))
    found = known(place).results
    assert found.shown == {}
    (line,) = found.left_out
    assert message in line
    assert "\n" not in line


def test_the_best_epoch_on_test_is_called_so_and_has_to_be_the_logs(place):
    curve = [*np.linspace(0.2, 0.38, 199), 0.44]
    run = finish(place / "benchmarks" / "results" / "whole", AS_RUN, 0, 0.44, curve=curve)
    result = known(place).shown[AS_RUN]
    assert result.summary == "44.00 (best of 200 epochs on test, 1 seed)"
    # The last of a straight line but for its own optimism.
    assert result.runs[0].optimism == pytest.approx(0.44 - (0.38 + 0.18 / 198), abs=1e-6)
    damage(run, test_top1=0.45)
    (line,) = known(place).results.left_out
    assert "the best epoch of metrics.jsonl is not the test score" in line


def test_a_queued_runs_own_seconds_are_never_shown(place):
    finish(place / "benchmarks" / "results" / "whole", BASE, 0, 0.40)
    found = known(place)
    assert pages.figure(found, f"whole/{BASE}", "minutes", None) == "not measured yet"
    assert pages.chart_points(found) == []
    timed = replace(found, rates={BASE: RATE})
    # 45,000 pictures and one evaluation, 200 times.
    assert pages.figure(timed, f"whole/{BASE}", "minutes", None) == f"{200 * (30 + 6) / 60:.1f}"
    (point,) = pages.chart_points(timed)
    assert (point["name"], point["minutes"], point["seeds"]) == (BASE, 120.0, "1 of 3 seeds")
    assert pages.chart_points(replace(found, rates={BASE: replace(RATE, cores=64)})) == []
    row = next(line for line in pages.whole_table(timed, "") if line.startswith(f"| `cifarlab train {BASE}`"))
    assert "| 40.00 | 1 of 3 seeds |" in row
    assert "| 120.0 |" in row
    assert "0123456" in row
    assert "1666" not in row


def test_what_is_computed_once_a_view_is_in_the_minutes():
    rate = replace(RATE, preparation_seconds=90.0, views=3)
    assert rate.minutes(1500 * 60, 10, 10) == pytest.approx(1 + 1 + 3 * 1.5)
    assert rate.minutes(1500 * 60, 2, 2) == pytest.approx(1 + 0.2 + 2 * 1.5)


def test_the_table_at_whole_length(place):
    folder = place / "benchmarks" / "results" / "whole"
    row = next(line for line in pages.reproduce_table(known(place), "") if f"`{BASE}`" in line)
    assert row.count("not measured yet") == 2
    finish(folder, AS_RUN, 0, 0.40, curve=[0.3] * 9 + [0.40])
    finish(folder, BASE, 0, 0.42)
    row = next(line for line in pages.reproduce_table(known(place), "") if f"`{BASE}`" in line)
    assert "| 44.26 | 40.00 | 1 seed |" in row
    assert "-4.26: one seed cannot tell" in row
    assert "| 42.00 | 1 of 3 seeds | +2.00 |" in row
    finish(folder, AS_RUN, 1, 0.402, curve=[0.3] * 9 + [0.402])
    row = next(line for line in pages.reproduce_table(known(place), "") if f"`{BASE}`" in line)
    assert "-4.16: unexplained" in row


def test_the_spread_of_seeds_explains_what_one_more_run_may_show(place):
    scores = [0.43, 0.45, 0.44]
    for seed, score in enumerate(scores):
        finish(place / "benchmarks" / "results" / "whole", AS_RUN, seed, score, curve=[0.3] * 9 + [score])
    result = known(place).shown[AS_RUN]
    # Student's t of 2 degrees of freedom at 97.5 %, from a table.
    reach = 4.3027 * 1.0 * np.sqrt(1 + 1 / 3)
    for offset, word in ((0.99, "within the spread"), (1.01, "unexplained")):
        experiment = replace(experiments()[BASE], published=44 + offset * reach)
        assert word in pages.explained(experiment, result)


def test_a_header_has_its_result_or_why_not(place):
    recipe = write_recipe(place, f"{BASE}.yaml", "  waits: needs a GPU")
    own = (replace(recipe, name=BASE),)
    text = pages.with_header(own[0], known(place))
    assert "\n  waits: queued\n" in text
    finish(place / "benchmarks" / "results" / "whole", BASE, 0, 0.40)
    text = pages.with_header(own[0], known(place))
    assert "\n  measured: 40.00 (1 of 3 seeds)\n" in text
    assert "waits" not in text
    recipe.path.write_text(text)
    assert read_recipe(str(recipe.path)).measured == "40.00 (1 of 3 seeds)"
    for seed, score in ((1, 0.41), (2, 0.42)):
        finish(place / "benchmarks" / "results" / "whole", BASE, seed, score)
    recipe.path.write_text(pages.with_header(own[0], known(place)))
    assert read_recipe(str(recipe.path)).measured == known(place).shown[BASE].summary
    table = pages.recipe_table(known(place, recipes=own), "docs/recipes.md")
    assert table[2] == f"| `{BASE}` | words | - | {known(place).shown[BASE].summary} |"


def test_runs_under_overrides_are_no_result_of_the_recipe(place):
    (place / "benchmarks" / "queue.txt").write_text(f"{BASE} 0 {BASE} optim.lr=0.5\n")
    finish(place / "benchmarks" / "results" / "whole", BASE, 0, 0.40, ["optim.lr=0.5"])
    found = known(place)
    assert found.shown[BASE].command == f"cifarlab train {BASE} optim.lr=0.5"
    recipe = replace(write_recipe(place, "mine.yaml", "  waits: needs a GPU"), name=BASE)
    assert pages.header_result(recipe, found) == ("waits", "needs a GPU")


def write_recipe(place, name, line):
    path = place / name
    about = f"about:\n  what: words\n{line}\n"
    path.write_text(f"# words\n{about}\nbase: resnet18_baseline\ntrain: {{epochs: 3}}\n")
    return read_recipe(str(path))


def test_a_recipe_neither_measured_nor_queued_says_why(place):
    with pytest.raises(ConfigError, match="say why"):
        pages.header_result(write_recipe(place, "mine.yaml", "  waits: queued"), known(place))
    with pytest.raises(ConfigError, match="found 0"):
        pages.with_header(
            replace(write_recipe(place, "mine.yaml", ""), about={"waits": "needs a GPU"}), known(place)
        )


@pytest.mark.parametrize(
    ("comment", "message"),
    [
        ("whole/resnet19 test_top1", "no result and no line"),
        (f"whole/{BASE} top1", "expected one of test_top1"),
        ("missing.json a as percent1", "no such file"),
        ("transfer.json arms.scratch as percent1", "there is no 'scratch'"),
        ("transfer.json arms.from scratch.9.test_top1 as percent1", "there is no '9'"),
        ("transfer.json arms as percent1", "not a number"),
        ("transfer.json arms.from scratch.0.test_top1 as digits", "none of percent1"),
    ],
)
def test_a_comment_that_names_nothing_is_an_error(place, comment, message):
    shutil.copy(ROOT / "benchmarks" / "results" / "transfer.json", place / "benchmarks" / "results")
    with pytest.raises(ConfigError, match=message) as error:
        pages.with_results(f"<!-- result: {comment} --><!-- /result -->", known(place), "docs/page.md")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text", ["<!-- result: a.json b as percent1 -->4", "<!-- result: a.json --><!-- /result -->"]
)
def test_a_comment_that_is_not_closed_is_an_error(place, text):
    with pytest.raises(ConfigError, match=r"docs/page\.md: a result comment is not closed"):
        pages.with_results(text, known(place), "docs/page.md")


@pytest.mark.parametrize(
    "line",
    ["a", "a 0", "a x b", "a 0 b c", 'a 0 b "c=d', "a 0 b  # 1.5 h", f"{BASE} 0 {BASE}\n{BASE} 0 demo"],
)
def test_a_wrong_line_of_the_queue_is_an_error(tmp_path, line):
    (tmp_path / "queue.txt").write_text(f"# words\n{line}\n")
    with pytest.raises(ConfigError, match=r"queue.txt, line \d: ") as error:
        whole.read_queue(tmp_path / "queue.txt")
    assert "\n" not in str(error.value)


def test_every_line_of_the_queue_resolves_and_has_its_hours():
    path = ROOT / "benchmarks" / "queue.txt"
    for line in whole.read_queue(path):
        assert line.config().train.seed == line.seed
    lines = [text for text in path.read_text().splitlines() if text]
    for above, text in itertools.pairwise(lines):
        assert text.startswith("#") or above.endswith(" h"), text


def test_runs_are_brought_without_the_paths_of_their_machine(place, tmp_path):
    source, target = tmp_path / "source", place / "benchmarks" / "results" / "whole"
    finish(source, BASE, 0, 0.40)
    finish(source, BASE, 1, 0.41).summary_path.unlink()
    finish(source, "other", 0, 0.41, recipe=BASE)
    brought = whole.bring(source, target, whole.read_queue(place / "benchmarks" / "queue.txt"))
    assert brought == [f"{BASE}/0"]
    assert sorted(path.name for path in (target / BASE / "0").iterdir()) == sorted(whole.FILES)
    env = json.loads((target / BASE / "0" / "env.json").read_text())
    assert env["command"] == ["__main__.py", "--runs", "runs"]
    assert list(known(place).shown) == [BASE]


def test_a_chart_is_known_by_its_points(tmp_path):
    points = [{"name": "a", "minutes": 3.0, "seeds": "2 seeds", "test": [70.0, 69.0, 71.0]}]
    path = tmp_path / "chart.png"
    assert not pages.is_drawn(points, path)
    pages.draw(points, path)
    assert pages.is_drawn(points, path)
    assert not pages.is_drawn([{**points[0], "test": [70.1, 69.0, 71.0]}], path)


@pytest.mark.parametrize(
    ("scale", "sizes"),
    [
        ("null", {"32"}),
        ("{sizes: [16, 32], per: stage}", {"16", "32"}),
        ("{sizes: [16, 32], per: sample}", {"16, 32"}),
    ],
)
def test_a_recipe_is_timed_at_each_of_its_sizes(tmp_path, monkeypatch, scale, sizes):
    monkeypatch.chdir(tmp_path)
    overrides = [word for text in TINY for word in ("--override", text)]
    words = ["rates.py", "demo", "--steps", "2", "--warmup", "1", "--out", str(tmp_path / "rates.json")]
    monkeypatch.setattr(sys, "argv", [*words, *overrides, "--override", f"data.multi_scale={scale}"])
    rates.main()
    rate = rates.read_rates(tmp_path / "rates.json")["demo"]
    assert set(rate.by_size) == sizes
    assert min(rate.by_size.values()) > 0
    assert rate.evaluation_seconds > 0
    assert rate.preparation_seconds == 0
    assert rate.cores >= 1
    share = [1 / value for value in rate.by_size.values()]
    assert 1 / rate.images_per_second == pytest.approx(sum(share) / len(share), rel=0.01)


def test_the_list_says_why_a_recipe_is_not_measured(cifarlab):
    status, out, _ = cifarlab("list", "--json")
    assert status == 0
    rows = json.loads(out)
    assert [row["name"] for row in rows] == [recipe.name for recipe in all_recipes()]
    assert all((row["measured"] is None) != (row["waits"] is None) for row in rows)
    _, text, _ = cifarlab("list")
    assert "not measured yet: needs ResNet weights" in text
