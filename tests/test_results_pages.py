"""The scripts that write docs/results/, on tiny runs."""

import json
import sys

import pytest
from benchmarks import first_ten_epochs, synthetic_pictures

from tests.tiny import TINY


@pytest.mark.parametrize(
    ("script", "files"),
    [
        (first_ten_epochs, ["first_ten_epochs.md", "first_ten_epochs.png"]),
        (synthetic_pictures, ["synthetic.md", "synthetic.jpg", "synthetic.png"]),
    ],
)
def test_a_script_trains_and_writes_its_page(script, files, tmp_path, monkeypatch):
    tiny = [text for text in TINY if not text.startswith(("data.val", "train.epochs"))]
    tiny += ["data.val=100"] if script is synthetic_pictures else ["data.augment=null"]
    overrides = [word for text in tiny for word in ("--override", text)]
    out = tmp_path / "out"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["script", "--epochs", "2", "--out", str(out), *overrides])
    script.main()
    assert sorted(path.name for path in (out / "docs" / "results").iterdir()) == sorted(files)
    page = (out / "docs" / "results" / files[0]).read_text()
    figures = json.loads(next((out / "benchmarks" / "results").iterdir()).read_text())
    shown = "2f" if script is first_ten_epochs else "1f"
    scores = [result.get("summary", result).get("test_top1") for result in figures.values()]
    assert all(f"{100 * score:.{shown}}" in page for score in scores if score is not None)
    assert any(score is not None for score in scores)
