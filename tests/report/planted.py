"""Copies of a real run under other names, seeds and scores: what tests of the report show."""

import json
import math
import shutil
from pathlib import Path


def plant(one: Path, runs: Path, name: str, seed: int, val: float | None, epochs: int = 2, **changes) -> Path:
    """A copy of a real run under another name and seed, with another accuracy and a longer log."""
    folder = runs / name / str(seed)
    shutil.copytree(one, folder, ignore=shutil.ignore_patterns("*.pt", "tensorboard", "lock"))
    summary = json.loads((one / "summary.json").read_text())
    summary |= {"seed": seed, "val_top1": val, "epochs": epochs, **changes}
    (folder / "summary.json").write_text(json.dumps(summary))
    row = json.loads((one / "metrics.jsonl").read_text().splitlines()[0])
    lines = []
    for epoch in range(1, epochs + 1):
        top1 = (val or 0) * (1 - math.exp(-5 * epoch / epochs))
        lines.append(json.dumps({**row, "epoch": epoch, "val/top1": top1, "train/top1": 1.2 * top1}))
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    return folder


def open_page(browser, path: Path, width: int = 1200):
    """The page, and what the browser complains of or fetches."""
    page = browser.new_page(viewport={"width": width, "height": 900})
    complaints: list[str] = []
    page.on(
        "console",
        lambda said: complaints.append(said.text) if said.type in ("error", "warning") else None,
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "request", lambda request: complaints.append(request.url) if request.url.startswith("http") else None
    )
    page.goto(path.as_uri())
    return page, complaints
