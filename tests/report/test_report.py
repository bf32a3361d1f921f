"""The report: what it shows, what it leaves out, and that it works in a browser."""

import json
import re
from pathlib import Path

import pytest
import yaml
from scipy import stats

from cifarlab.core.errors import ConfigError
from cifarlab.report import tables
from cifarlab.report.collect import collect_runs
from cifarlab.report.page import build_page
from cifarlab.runs.folder import Run
from cifarlab.runs.ledger import record_opening
from tests.report.planted import open_page, plant


@pytest.fixture
def runs(one, tmp_path) -> Path:
    folder = tmp_path / "runs"
    for name, vals in {"a/base": (0.5, 0.52, 0.51), "b": (0.6, 0.61, 0.65), "c": (0.1,)}.items():
        for seed, val in enumerate(vals):
            plant(one, folder, name, seed, val, seconds=60.0 * (seed + 1))
    return folder


def test_the_interval_is_students(runs):
    groups, skipped = collect_runs(runs)
    assert not skipped
    assert [group.name for group in groups] == ["a/base", "b", "c"]
    table = tables.name_groups(groups)
    row = dict(zip(table.head, table.rows[0], strict=True))
    low, high = stats.t.interval(0.95, 2, loc=0.51, scale=stats.sem([0.5, 0.52, 0.51]))
    assert row["val, %"].text == f"51.00 ± {50 * (high - low):.2f}"
    assert row["minutes"].text == "2.0"
    assert row["seeds"].text == "3"
    # One seed has no spread, and the test was not read.
    assert table.rows[2][3].text == "10.00"
    assert all(row[4].text == "-" for row in table.rows)


def test_the_page_says_how_often_the_test_set_was_opened(runs, tmp_path):
    for seed in (0, 0, 2):
        record_opening(Run(runs / "b" / str(seed)), "eval", "f", 1)
    page, _ = build_page(runs, tmp_path / "out")
    assert "opened 3 x" in page.read_text()
    groups, _ = collect_runs(runs)
    assert [run.opened for run in groups[1].runs] == [2, 0, 1]
    assert [row[8].text for row in tables.name_groups(groups).rows] == ["0 x", "3 x", "0 x"]
    # The ledger lies above the folder that is asked for.
    (runs / "b" / "0" / "env.json").write_text(json.dumps({"name": "b"}))
    page, _ = build_page(runs / "b", tmp_path / "part")
    assert "opened 3 x" in page.read_text()


def test_the_files_beside_the_page(runs, tmp_path):
    page, _ = build_page(runs, tmp_path / "out")
    names = {path.name for path in page.parent.iterdir()}
    assert {"report.html", "table.md", "table.csv", "table.tex", "differences.tex"} <= names
    assert {
        f"{name}.{suffix}" for name in ("pareto", "validation", "gap") for suffix in ("png", "svg")
    } <= names
    assert "steps.svg" not in names, "no name is a rung"
    assert (page.parent / "pareto.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (page.parent / "gap.svg").read_text()
    text = page.read_text()
    # Nothing is fetched: no address in what a browser loads.
    assert not re.search(r"<(script|link|img)[^>]*(src|href)=[\"']https?:", text)
    assert len((page.parent / "table.csv").read_text().splitlines()) == 4
    assert r"a/base & 3 & 2 & 51.00 $\pm$" in (page.parent / "table.tex").read_text()


def damage(folder: Path, how: str) -> None:
    name, _, kind = how.partition(": ")
    path = folder / name
    content = path.read_bytes()
    if kind == "missing":
        path.unlink()
        return
    foreign = b"[1, 2, 3]\n" if path.suffix != ".yaml" else b"- 1\n- 2\n"
    path.write_bytes({"truncated": content[: len(content) // 3], "empty": b"", "foreign": foreign}[kind])


@pytest.mark.parametrize("kind", ["truncated", "empty", "foreign", "missing"])
@pytest.mark.parametrize("name", ["summary.json", "config.yaml", "metrics.jsonl", "env.json"])
def test_a_damaged_run_is_named_and_the_rest_kept(runs, name, kind):
    folder = runs / "b" / "1"
    damage(folder, f"{name}: {kind}")
    groups, skipped = collect_runs(runs)
    if (name, kind) == ("metrics.jsonl", "truncated"):
        # What stands before the cut is read.
        assert all(each.path == folder for each in skipped)
        return
    assert [each.path for each in skipped] == [folder]
    assert skipped[0].reason
    assert "\n" not in skipped[0].reason
    assert [(group.name, len(group.runs)) for group in groups] == [("a/base", 3), ("b", 2), ("c", 1)]


def test_a_summary_with_a_word_for_a_number_is_skipped(runs):
    path = runs / "b" / "1" / "summary.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "val_top1": "much"}))
    assert "val_top1: input should be a valid number" in collect_runs(runs)[1][0].reason


def test_what_a_reader_must_know_stands_on_the_page(runs, tmp_path):
    """Seeds of two experiments under one name, and a run that cannot be read."""
    path = runs / "b" / "1" / "config.yaml"
    path.write_text(path.read_text().replace("batch_size: 32", "batch_size: 64"))
    damage(runs / "a/base" / "0", "summary.json: empty")
    text = build_page(runs, tmp_path / "out")[0].read_text()
    assert "its runs differ in data.batch_size" in text
    assert f"<code>{runs / 'a/base' / '0'}</code>" in text


def test_seeds_in_another_order_are_told_and_those_of_an_older_version_are_not(runs):
    path = runs / "a/base" / "1" / "config.yaml"
    plain = yaml.safe_load(path.read_text())
    del plain["optim"]["eps"]
    path.write_text(yaml.safe_dump(plain, sort_keys=False))
    path = runs / "b" / "1" / "config.yaml"
    plain = yaml.safe_load(path.read_text())
    plain["data"]["augment"] = dict(reversed(plain["data"]["augment"].items()))
    path.write_text(yaml.safe_dump(plain, sort_keys=False))
    warnings = {group.name: group.warnings for group in collect_runs(runs)[0]}
    assert warnings["a/base"] == []
    assert len(warnings["b"]) == 1
    assert "its runs differ in data.augment, " in warnings["b"][0]


def test_no_runs_is_a_users_mistake(tmp_path, cifarlab):
    with pytest.raises(ConfigError, match="no such folder"):
        build_page(tmp_path / "none", tmp_path / "out")
    (tmp_path / "runs").mkdir()
    status, _, said = cifarlab("report", tmp_path / "runs")
    assert status == 2
    assert "no runs in it" in said
    assert said.count("\n") == 1


def test_the_command_names_what_is_left_out_and_ends_on_the_page(runs, tmp_path, cifarlab):
    damage(runs / "b" / "1", "summary.json: empty")
    status, out, said = cifarlab("report", runs, "--out", tmp_path / "out")
    assert status == 0
    assert out.strip() == str(tmp_path / "out" / "report.html")
    assert f"left out: {runs / 'b' / '1'}: " in said


def test_a_name_cannot_break_out_of_the_page(one, tmp_path):
    plant(one, tmp_path / "runs", "<b>bold<", 0, 0.5)
    page, _ = build_page(tmp_path / "runs", tmp_path / "out")
    assert "<b>bold" not in page.read_text()


def test_thirty_runs_of_200_epochs_in_a_browser(one, tmp_path, browser):
    """Sorting and hovering work, nothing is complained of, and the page is light enough to send."""
    for name in range(10):
        for seed in range(3):
            plant(
                one,
                tmp_path / "runs",
                f"name_{name}",
                seed,
                0.2 + 0.05 * ((7 * name) % 10) + 0.01 * seed,
                200,
            )
    page_path, _ = build_page(tmp_path / "runs", tmp_path / "out")
    assert page_path.stat().st_size < 8e6
    page, complaints = open_page(browser, page_path)
    page.wait_for_selector("#validation svg")
    names = "#table tbody th"
    assert page.locator(names).all_inner_texts() == [f"name_{i}" for i in range(10)]
    button = page.locator("#table thead button", has_text="val, %")
    button.click()
    rising = page.locator(names).all_inner_texts()
    button.click()
    assert page.locator("#table thead th", has_text="val, %").get_attribute("aria-sort") == "descending"
    assert page.locator(names).all_inner_texts() == rising[::-1]
    assert rising == [f"name_{i}" for i in sorted(range(10), key=lambda i: (7 * i) % 10)]
    page.locator("#pareto svg .mark-symbol.role-mark path").first.hover(force=True)
    tip = page.locator("#vg-tooltip-element")
    tip.wait_for(state="visible")
    assert "name_" in tip.inner_text()
    assert "minutes" in tip.inner_text()
    assert not complaints
    # On a phone nothing but the table's own box scrolls sideways.
    page.set_viewport_size({"width": 390, "height": 800})
    page.reload()
    page.wait_for_selector("#validation svg")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
