"""The chart of the lessons, and the page's last line."""

import pytest
from matplotlib.axes import Axes

from cifarlab.experiments.records import JudgedDifference, Lesson
from cifarlab.report.reproduction import write_chart

pytestmark = pytest.mark.quick


def apart(mean, low, high):
    judged = {"p": None, "p_holm": None, "shown": False, "smallest": None, "more_seeds": None}
    return JudgedDifference(paired=True, seeds=2, mean=mean, low=low, high=high, verdict="", **judged)


def test_the_chart_shows_zeros(tmp_path, monkeypatch):
    bars, points = [], []
    errorbar, plot = Axes.errorbar, Axes.plot
    monkeypatch.setattr(
        Axes, "errorbar", lambda self, *given, **options: bars.append(options["xerr"]) or errorbar(
            self, *given, **options
        )
    )  # fmt: skip
    monkeypatch.setattr(
        Axes, "plot", lambda self, *given, **options: points.append((given[0], options.get("label")))
        or plot(self, *given, **options)
    )  # fmt: skip
    sides = {"as_run": apart(0.02, 0.0, 0.04), "corrected": apart(-0.02, -0.04, 0.0)}
    words = {"name": "a", "what": "", "builds_on": "b"}
    write_chart(
        [
            Lesson(**words, published=0.0, **sides),
            Lesson(**words, published=None, as_run=apart(0.01, None, None), corrected=None),
        ],
        tmp_path / "chart.png",
    )
    assert bars == [[[2.0, 0.0], [2.0, 0.0]], [[2.0], [2.0]]]
    assert ([0.0], "published") in points
