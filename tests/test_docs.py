"""What the README and the guide say is so: their commands, their code."""

import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
from PIL import Image
from safetensors.torch import save_file

from cifarlab import cli
from tests.tiny import PARTS, TINY, once

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs" / "guide").glob("*.md"))]
README = "\n".join(page.read_text() for page in PAGES)
# What shortens a run of the README, whatever its recipe: everything that is not the point of the command.
SHORT = [*TINY, "data.image_size=32", "data.augment=null", "model.normalize=none", "train.select=val"]


def blocks(language: str = "") -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands() -> list[str]:
    lines = re.findall(r"^    (cifarlab [^\n#]*)", README, re.MULTILINE)
    return [line.strip() for line in lines]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with all that the README's commands speak of."""
    folder = tmp_path_factory.mktemp("readme")
    rng = np.random.default_rng(0)
    for part, count in (("train", 12), ("test", 4), ("../photos", 1)):
        for label in ("cat", "dog", ""):
            target = folder / "pictures" / part / label
            target.mkdir(parents=True, exist_ok=True)
            for i in range(count if label or "photos" in part else 0):
                Image.fromarray(rng.integers(0, 255, (20, 30, 3), np.uint8)).save(target / f"{i}.png")
    Image.fromarray(rng.integers(0, 255, (50, 30, 3), np.uint8)).save(folder / "cat.jpg")
    save_file(timm.create_model("resnet18").state_dict(), folder / "resnet18.safetensors")
    python = [block for block in blocks("python") if block.startswith("# ")]
    for block in [*python, *blocks("yaml")]:
        name = block.split()[1] if block.startswith("# ") else "mine.yaml"
        (folder / name).write_text(block.replace("/path/to/pictures", str(folder / "pictures")))
    return folder


def run(place, monkeypatch, line: str) -> int:
    monkeypatch.chdir(place)
    words = [word.replace("/path/to", str(place)) for word in shlex.split(line)]
    if words[1] == "compare":
        # Two seeds show as well that the command runs.
        words = [*words[:4], *SHORT, "--seeds", "2"]
    if words[1] == "ladder":
        words = [*words[:3], *SHORT, "train.epochs=1", "--seeds", "2"]
    if words[1] == "reproduce":
        # Apart from the runs that other commands of the README shortened otherwise.
        apart = ["--runs", "reproduced", "--seeds", "2", "--only", "resnet18_baseline"]
        words = [*words[:2], *SHORT, "data.limit=100", *apart]
    if words[1] in ("check", "profile"):
        words = [*words[:3], *SHORT, *(["--steps", "1"] if words[1] == "profile" else [])]
    # Two epochs show as well that they are trained.
    words = ["train.epochs=2" if word == "train.epochs=20" else word for word in words]
    if "--at-once" in words:
        # So do two in turn: processes of their own have tests of their own.
        words[words.index("--seeds") + 1] = "2"
        words[words.index("--at-once") + 1] = "1"
    if words[1] == "train":
        own_data = "mine.yaml" in words or any(word.startswith("data.root=") for word in words)
        recipe_imports = [place / "parts.py"] if "focal.yaml" in words else []
        short = [
            text
            for text in SHORT
            if not (own_data and text.startswith(("data.dataset", "data.val", "data.image")))
            and not ("pipeline.yaml" in words and text.startswith("data.augment"))
        ]
        short += ["data.val=6", "data.batch_size=4"] if own_data else []
        short = [
            f"imports=[{', '.join(map(str, [PARTS, *recipe_imports]))}]" if "imports" in s else s
            for s in short
        ]
        # The user's own overrides come last: they win.
        words[3:3] = [text for text in short if text.split("=")[0] not in line]
    monkeypatch.setattr(sys, "argv", once(*words))
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return int(stop.value.code or 0)


def test_every_command_runs(place, monkeypatch):
    found = list(dict.fromkeys(commands()))  # A page repeats what another one shows.
    assert len(found) >= 10
    monkeypatch.chdir(place)
    for line in [*found, *(f"cifarlab train {name}.yaml" for name in ("mine", "focal", "pipeline"))]:
        assert run(place, monkeypatch, line) == 0, line


def test_the_python_example_runs(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    assert run(place, monkeypatch, "cifarlab train resnet18_baseline") == 0
    capsys.readouterr()
    shown = ("cifarlab.load", "cifarlab.evaluate")
    for example in [block for block in blocks("python") if any(name in block for name in shown)]:
        exec(example, {})
        assert capsys.readouterr().out.strip()


def test_the_two_commands_are_the_makefiles():
    targets = re.findall(r"^    make (\w+)", README, re.MULTILINE)
    assert targets == ["demo", "test"]
    makefile = (ROOT / "Makefile").read_text()
    assert all(f"\n{target}:" in makefile for target in targets)


def test_links_lead_somewhere():
    for text in (ROOT / "docs").rglob("*.md"), ROOT.glob("*.md"):
        for page in text:
            for link in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
                assert (page.parent / link).exists(), f"{page.name}: {link}"
