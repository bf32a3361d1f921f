"""The names of runs in a legend."""

import pytest

from cifarlab.report.plot import _names
from cifarlab.runs.folder import Run

pytestmark = pytest.mark.quick


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (["a/0", "b/0"], ["a", "b"]),
        (["a/0", "a/1", "b/0"], ["a/0", "a/1", "b"]),
        (["as_run/a/0", "a/0"], ["as_run/a", "a"]),
        (["ladder/a/0", "other/a/0"], ["ladder/a/0", "other/a/0"]),
        (["ladder/a/0", "ladder/a/1", "other/a/0"], ["ladder/a/0", "ladder/a/1", "other/a/0"]),
        (["x/ladder/a/0", "y/ladder/a/0", "b/0"], ["x/ladder/a/0", "y/ladder/a/0", "b"]),
        (["x/as_run/a/0", "y/as_run/a/0"], ["x/as_run/a/0", "y/as_run/a/0"]),
    ],
)
def test_each_run_has_a_name_of_its_own(tmp_path, folders, names):
    assert _names([Run(tmp_path / folder) for folder in folders]) == names


def test_a_run_twice_has_one_name(tmp_path):
    one, other = _names([Run(tmp_path / "a" / "0")] * 2)
    assert one == other
