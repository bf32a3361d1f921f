"""The tutorial's rows, and recipes that the documentation writes out, as resolved configurations."""

import re
from pathlib import Path

from cifarlab.config import Config
from cifarlab.experiments.tutorial import AS_RUN, experiments, find_setting

ROOT = Path(__file__).parents[1]
AS_RUN_ROWS = [AS_RUN + name for name in experiments()]


def row(name: str, *overrides: str) -> Config:
    """A row of the tutorial's table: `NAME` corrected, `as_run/NAME` as published."""
    setting = find_setting(name)
    assert setting is not None, name
    return setting.config(*overrides)


def documented() -> dict[str, str]:
    """The recipes that docs/recipes.md writes out, by the file name in their first line."""
    page = (ROOT / "docs" / "recipes.md").read_text()
    return dict(re.findall(r"```yaml\n# (\S+\.yaml)\n(.*?)```", page, re.DOTALL))
