"""docs/doctor.md lists the checks as they are registered."""

import re
from pathlib import Path

from cifarlab.doctor import CHECKS

PAGE = (Path(__file__).parents[2] / "docs" / "doctor.md").read_text()


def table(stage: str) -> str:
    rows = [
        f"| `{each.id}` | {each.severity} | {each.meaning} | {each.fix} |"
        for each in CHECKS.values()
        if each.stage == stage
    ]
    return "\n".join(["| finding | severity | what it means | fix |", "|---|---|---|---|", *rows])


def test_the_page_lists_every_check():
    for stage in ("static", "batch", "deep"):
        assert table(stage) in PAGE, f"the table of {stage} checks is now:\n{table(stage)}"
    assert set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)) == set(CHECKS)


def test_every_check_says_in_a_line_what_it_found_and_what_to_do():
    for each in CHECKS.values():
        assert each.meaning.endswith(".") and len(each.meaning) < 110, each.id
        assert each.fix and "\n" not in each.fix
