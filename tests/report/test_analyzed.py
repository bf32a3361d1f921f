"""What `cifarlab analyze` left, on the report's page: from its files alone, damaged ones named."""

import base64
import io
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from cifarlab.data.splits import Split
from cifarlab.evaluation.analysis.analyze import analyze
from cifarlab.evaluation.analysis.records import PictureRow
from cifarlab.evaluation.analysis.tiles import LARGEST, TILES_SHOWN, picture_at, read_tiles, write_tiles
from cifarlab.report import tables
from cifarlab.report.analyses import read_analysis
from cifarlab.report.analysis_charts import filling, still_charts
from cifarlab.report.collect import collect_runs
from cifarlab.report.page import build_page
from tests.report.planted import open_page, plant

QUIET = "<code>cifarlab analyze RUN</code> adds"


@pytest.fixture(scope="module")
def analyzed(one, tmp_path_factory):
    """A folder with analyze's files of a real run, and the run's name."""
    from cifarlab.core.files import write_json

    folder = tmp_path_factory.mktemp("analyzed")
    found = analyze(one, corruptions=True, near=False)
    write_tiles(found.report.worth_a_look, found.pictures, folder / "analysis_pictures.png")
    write_json(folder / "analysis.json", found.report.to_json())
    return folder


@pytest.fixture
def runs(one, analyzed, tmp_path):
    """`a` with two seeds, the second analyzed; `b` not."""
    folder = tmp_path / "runs"
    for name, seed in (("a", 0), ("a", 1), ("b", 0)):
        plant(one, folder, name, seed, 0.5)
    for file in analyzed.iterdir():
        shutil.copy(file, folder / "a" / "1")
    return folder


def test_the_pictures_are_the_splits_own(one, analyzed):
    found = analyze(one, near=False)
    kinds = found.report.worth_a_look
    kept = read_tiles(analyzed / "analysis_pictures.png", [len(kind) for kind in kinds])
    for kind, tiles in zip(kinds, kept, strict=True):
        assert len(tiles) == TILES_SHOWN
        for tile, row in zip(tiles, kind, strict=False):
            assert np.array_equal(np.asarray(tile), picture_at(found.pictures, row.position))


def plain(specifications):
    """As the page reads them."""
    return json.loads(json.dumps(specifications))


def test_the_line_of_perfect_calibration_stays_where_rows_are_filled_in(analyzed):
    path = analyzed / "analysis.json"
    found = read_analysis(path, json.loads(path.read_text())["epoch"])
    ideal, *_ = plain(still_charts(found, 400))["calibration"]["layer"]
    assert ideal["data"]["values"] == [{"at": 0}, {"at": 100}]


def test_large_pictures_are_kept_small(tmp_path):
    import torch

    images = torch.randint(0, 256, (24, 3, 224, 224), dtype=torch.uint8)
    pictures = Split(images, torch.arange(24), torch.zeros(24, dtype=torch.int64), torch.arange(24))
    known = {"label": "cat", "guess": "dog", "probability": 0.9, "probability_of_label": 0.1}
    rows = [PictureRow(position=i, id=i, **known) for i in range(24)]
    path = write_tiles((rows, rows[:3]), pictures, tmp_path / "p.png")
    assert [len(tiles) for tiles in read_tiles(path, [24, 3])] == [TILES_SHOWN, 3]
    # The worst case, noise: 30 names of it, as text, beside 2 MB of everything else.
    full = write_tiles((rows, rows), pictures, tmp_path / "q.png")
    assert read_tiles(full, [24, 24])[0][0].size == (LARGEST, LARGEST)
    assert 30 * full.stat().st_size * 4 / 3 < 5e6


def test_the_page_shows_an_analysis_and_opens_nothing(runs, tmp_path, monkeypatch):
    for name in (
        "cifarlab.evaluation.sealed.load_test",
        "cifarlab.data.splits.read_data",
        "cifarlab.runs.model.load_trained",
    ):
        monkeypatch.setattr(name, lambda *_, **__: pytest.fail("the report reads files alone"))
    page, skipped = build_page(runs, tmp_path / "out")
    assert not skipped
    text = page.read_text()
    report = json.loads((runs / "a" / "1" / "analysis.json").read_text())
    assert "Seed 1, epoch" in text
    assert f"top-5 {report['top5']:.1%}" in text
    assert QUIET not in text
    assert text.count("data:image/png;base64,") == 2 * TILES_SHOWN
    first = re.findall(r"base64,([^\"]+)", text)[0]
    with Image.open(io.BytesIO(base64.b64decode(first))) as picture:
        assert picture.size == (32, 32)
    assert (page.parent / "analyzed" / "a" / "confusion.svg").exists()
    row = tables.analyzed(collect_runs(runs)[0]).rows[0]
    shown = dict(zip(tables.analyzed(collect_runs(runs)[0]).head, [cell.text for cell in row], strict=True))
    assert shown["seeds"] == "1 of 2"
    assert shown["split"] == "val"
    assert shown["ECE after, %"] == f"{100 * report['after_temperature']['ece']:.2f}"
    assert shown["NLL"] == f"{report['nll']:.3f}"
    assert shown["corrupted, %"] == f"{100 * report['corruptions']['mean']:.2f}"
    assert shown["without near duplicates, %"] == "-", "it was not looked for"


def test_rows_of_the_charts_are_the_analysis(runs):
    path = runs / "a" / "1" / "analysis.json"
    report = json.loads(path.read_text())
    found = {
        kind: each["datasets"]["rows"]
        for kind, each in plain(filling(read_analysis(path, report["epoch"]))).items()
    }
    assert sum(row["pictures"] for row in found["confusion"]) == report["pictures"]
    right = sum(row["pictures"] for row in found["confusion"] if row["kind"] == "right")
    assert right / report["pictures"] == pytest.approx(report["superclass_top1"])
    assert sum(row["pictures"] for row in found["calibration"]) == 2 * report["pictures"]
    accuracies = [row["accuracy"] for row in found["classes"]]
    assert len(accuracies) == 20
    assert accuracies == sorted(accuracies)
    jpeg = [row["accuracy"] for row in found["corruptions"] if row["kind"] == "jpeg"]
    assert jpeg == pytest.approx([100 * value for value in (report["top1"], *report["corruptions"]["jpeg"])])


def test_where_nothing_was_analyzed_one_line_says_how(runs, tmp_path):
    shutil.rmtree(runs / "a")
    text = build_page(runs, tmp_path / "out")[0].read_text()
    assert text.count(QUIET) == 1
    assert "Beyond top-1" not in text


@pytest.mark.parametrize("content", ["truncated", "", "[1, 2]", '{"top1": 0.5}', "wrong kind", "no mean"])
def test_a_damaged_analysis_is_named_and_its_run_kept(runs, content):
    path = runs / "a" / "1" / "analysis.json"
    report = json.loads(path.read_text())
    changed = {
        "truncated": path.read_text()[:500],
        "wrong kind": json.dumps({**report, "reliability": "much"}),
        "no mean": json.dumps({**report, "corruptions": {"jpeg": [0.5]}}),
    }
    path.write_text(changed.get(content, content))
    groups, skipped = collect_runs(runs)
    assert [each.path for each in skipped] == [path]
    assert "\n" not in skipped[0].reason
    assert skipped[0].reason.startswith("cannot be read: ")
    assert [len(group.runs) for group in groups] == [2, 1]
    assert not groups[0].runs[1].analyses


def test_an_analysis_of_another_model_is_left_out(runs):
    path = runs / "a" / "1" / "analysis.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "epoch": 77}))
    groups, skipped = collect_runs(runs)
    assert "of epoch 77" in skipped[0].reason
    assert "cifarlab analyze" in skipped[0].reason
    assert not groups[0].runs[1].analyses


def test_damaged_pictures_are_named_and_the_rest_shown(runs, tmp_path):
    path = runs / "a" / "1" / "analysis_pictures.png"
    for content in (path.read_bytes()[:300], b"", b"GIF89a"):
        path.write_bytes(content)
        groups, skipped = collect_runs(runs)
        assert [each.path for each in skipped] == [path]
        assert groups[0].runs[1].analyses["val"].tiles == []
    Image.new("RGB", (100, 10)).save(path)
    assert "not the pictures of" in collect_runs(runs)[1][0].reason
    path.unlink()
    page, skipped = build_page(runs, tmp_path / "out")
    assert not skipped
    assert "No pictures were saved" in page.read_text()
    assert "Calibration" in page.read_text()


def test_an_analysis_in_a_browser(runs, analyzed, tmp_path, browser):
    """Open at once for the first name, drawn when opened for others; each cell of the heat map answers."""
    for file in analyzed.iterdir():
        shutil.copy(file, runs / "b" / "0")
    path, _ = build_page(runs, tmp_path / "out")
    page, complaints = open_page(browser, path)
    first, second = page.locator("details[data-analyzed]").all()
    first.locator("[data-kind=confusion] svg").wait_for()
    assert second.locator("svg").count() == 0
    second.locator("summary").click()
    second.locator("[data-kind=confusion] svg").wait_for()
    assert second.locator("[data-kind=confusion] svg").bounding_box()["width"] > 300
    first.locator("[data-kind=confusion] svg .mark-rect.role-mark path").nth(21).hover(force=True)
    tip = page.locator("#vg-tooltip-element")
    tip.wait_for(state="visible")
    assert "predicted" in tip.inner_text()
    assert "pictures" in tip.inner_text()
    pictures = first.locator(".pictures img")
    assert pictures.count() == 2 * TILES_SHOWN
    assert pictures.evaluate_all("all => all.every(each => each.naturalWidth === 32)")
    button = page.locator("#analyzed thead button", has_text="name")
    button.click()
    button.click()
    assert page.locator("#analyzed tbody th").all_inner_texts() == ["b", "a"]
    page.emulate_media(color_scheme="dark")
    page.set_viewport_size({"width": 390, "height": 800})
    page.wait_for_timeout(500)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert not complaints
