"""docs/doctor.md lists the checks as they are registered."""

import re
import textwrap
from pathlib import Path

from cifarlab.doctor import CHECKS, check_registry
from cifarlab.doctor.plan_facts import planned
from tests.tiny import tiny_config

PAGE = (Path(__file__).parents[2] / "docs" / "doctor.md").read_text()


def rows(stage: str) -> set[str]:
    return {
        f"| `{each.id}` | {each.severity} | {each.summary} | {each.fix} |"
        for each in CHECKS.values()
        if each.stage == stage
    }


def test_the_page_lists_every_check():
    """A section a stage; in whichever order, since a test that replaces a check puts it last."""
    sections = re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:4]
    for stage, section in zip(("static", "batch", "deep"), sections, strict=True):
        assert set(re.findall(r"^\| `.*$", section, re.MULTILINE)) == rows(stage)


def test_every_check_says_in_a_line_what_it_checks_and_what_to_do():
    for each in CHECKS.values():
        assert each.summary.endswith("."), each.id
        assert len(each.summary) < 110, each.id
        assert each.fix
        assert "\n" not in each.fix


def test_its_example_adds_a_check(monkeypatch):
    monkeypatch.setattr(check_registry, "CHECKS", {})
    code = textwrap.dedent(
        "\n".join(re.findall(r"^    (?!cifarlab)(.*)$|^$", PAGE.split("## ")[0], re.MULTILINE))
    )
    exec(code, {})
    (found,) = check_registry.run_checks("static", planned(tiny_config("train.epochs=400")))
    assert (found.id, found.severity, found.reason) == ("many_epochs", "note", "400 epochs")
    assert check_registry.run_checks("static", planned(tiny_config())) == []
