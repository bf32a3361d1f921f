"""Differences on the report's page: what the seeds show, and nothing more."""

import csv

import pytest

from cifarlab.core.errors import ConfigError
from cifarlab.experiments.compare import compare_arms, find_arm
from cifarlab.report import charts
from cifarlab.report.collect import collect_runs
from cifarlab.report.differences import compare_names, ladders, steps
from cifarlab.report.page import build_page
from tests.report.planted import open_page, plant

BASE = (0.50, 0.52, 0.51)


@pytest.fixture
def runs(one, tmp_path):
    """`better` by 5 points at every seed, `alike`, and `single` with one seed that is far above."""
    folder = tmp_path / "runs"
    apart = {"base": (0, 0, 0), "better": (0.05, 0.051, 0.049), "alike": (0.01, -0.01, 0), "single": (0.4,)}
    for name, values in apart.items():
        for seed, value in enumerate(values):
            plant(one, folder, name, seed, BASE[seed] + value)
    return folder


def test_the_page_says_what_compare_says(runs, tmp_path):
    names = ["base", "better", "alike", "single"]
    truth = compare_arms([find_arm(name, runs, None) for name in names], "val", "first").arms[1:]
    found = compare_names(collect_runs(runs)[0], against="base")
    assert found.records == {row.name: row.difference.changed(against=None) for row in truth}
    assert found.records["better"].verdict == "better by 5.00 points"
    assert found.records["single"].verdict.startswith("no difference shown (one seed")
    page, _ = build_page(runs, tmp_path / "out", against="base")
    with (page.parent / "differences.csv").open() as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert rows.keys() == {"alike", "better", "single"}
    assert rows["better"]["difference, points"] == "+5.00"
    assert rows["better"]["seeds"] == "3 pairs"
    assert rows["single"]["95 % interval"] == rows["single"]["p (Holm)"] == "-"
    assert "Against base, on validation" in page.read_text()


def test_the_first_name_is_the_reference_and_another_can_be(runs, tmp_path, cifarlab):
    groups, _ = collect_runs(runs)
    assert compare_names(groups).against == "alike"
    with pytest.raises(ConfigError, match=r"--against bettr: unknown; did you mean better\?"):
        compare_names(groups, against="bettr")
    status, _, err = cifarlab("report", runs, "--out", tmp_path / "out", "--against", "nobody")
    assert status == 2
    assert err.count("\n") == 1
    assert "known: alike, base" in err
    assert not (tmp_path / "out").exists()


def test_names_without_a_score_are_named_and_not_compared(one, runs):
    plant(one, runs, "refit", 0, None, gap=None)
    found = compare_names(collect_runs(runs)[0])
    assert found.without == ["refit"]
    assert "refit" not in found.records
    with pytest.raises(ConfigError, match="no score"):
        compare_names(collect_runs(runs)[0], against="refit")


def test_what_is_scored_on_test_alone_is_compared_there(one, tmp_path):
    for name, score in {"a": 0.5, "b": 0.6}.items():
        for seed in range(2):
            changes = {"gap": None, "test_top1": score + seed / 100, "chosen_on": "test"}
            plant(one, tmp_path, name, seed, None, **changes)
    found = compare_names(collect_runs(tmp_path)[0])
    assert found.metric == "test"
    assert found.records["b"].mean == pytest.approx(0.1)
    assert "a chose its epoch on test: optimistic" in found.notes


def test_runs_of_other_data_are_told(one, runs, tmp_path):
    plant(one, runs, "elsewhere", 0, 0.9, data_fingerprint="another")
    text = build_page(runs, tmp_path / "out")[0].read_text()
    assert "not all of these runs were trained on the same data" in text


@pytest.fixture
def ladder(one, tmp_path):
    """A gain that is shown, a fall that is shown, a rise that is not; and what is no rung."""
    folder = tmp_path / "runs"
    levels = {"00_base": (0, 0), "01_up": (0.1, 1), "02_down": (0.04, 2), "03_noise": (0.043, 20),
              "03_noise_without_01_up": (0.2, 1)}  # fmt: skip
    for name, (level, noise) in levels.items():
        for seed, base in enumerate(BASE):
            wobble = noise * (0.001, -0.001, 0.0005)[seed]
            plant(one, folder, f"ladder/{name}", seed, base + level + wobble)
    plant(one, folder, "other", 0, 0.5)
    return folder


def test_steps_are_gains_and_losses_only_where_they_are_shown(ladder, tmp_path):
    (folder, rungs), *more = ladders(collect_runs(ladder)[0]).items()
    assert (folder, more) == ("ladder", [])
    assert [rung.name.split("/")[1] for rung in rungs] == ["00_base", "01_up", "02_down", "03_noise"]
    found = steps(rungs)
    spec = charts.waterfall(rungs, found).to_dict()
    (rows,) = spec["datasets"].values() if "datasets" in spec else (spec["data"]["values"],)
    assert [row["kind"] for row in rows] == ["first", "gain", "loss", "no difference shown"]
    for row, below, step in zip(rows[1:], rows, found, strict=False):
        assert row["from"] == below["to"]
        assert step.low is not None
        assert step.high is not None
        assert row["high"] - row["low"] == pytest.approx(100 * (step.high - step.low), abs=1e-3)
    page, _ = build_page(ladder, tmp_path / "out")
    assert (page.parent / "steps.svg").exists()
    assert "Step by step: ladder" in page.read_text()


def test_the_differences_sort_and_a_step_answers_the_pointer(ladder, tmp_path, browser):
    page, complaints = open_page(browser, build_page(ladder, tmp_path / "out")[0])
    names = "#differences tbody th"
    before = page.locator(names).all_inner_texts()
    button = page.locator("#differences thead button", has_text="difference, points")
    button.click()
    rising = page.locator(names).all_inner_texts()
    assert rising != before
    assert rising[-1].endswith("without_01_up")
    # The other table keeps its order.
    assert page.locator("#table tbody th").first.inner_text() == "ladder/00_base"
    page.locator("#steps svg .mark-rect.role-mark path").nth(1).hover(force=True)
    tip = page.locator("#vg-tooltip-element")
    tip.wait_for(state="visible")
    assert "better by" in tip.inner_text()
    assert "95 % interval" in tip.inner_text()
    assert not complaints
