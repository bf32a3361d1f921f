"""The tests that need a GPU, and how each ended.

python benchmarks/gpu_tests.py --out benchmarks/results/gpu/gpu_tests.json

Only the files that have such tests are collected: the others need more packages. Exits with 1 where one
failed, and where none was run.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from common import begin, parser, write

REPOSITORY = Path(__file__).resolve().parent.parent
MARK = "pytest.mark.gpu"


class Outcomes:
    """A plugin of pytest's that remembers how each test ended, and why if it did not pass."""

    def __init__(self):
        self.ended: dict[str, list[str]] = {"passed": [], "failed": [], "skipped": []}
        self.reasons: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        # A test that is skipped or has no fixtures ends before it is called.
        if report.when == "call" or report.outcome != "passed":
            self.ended[report.outcome].append(report.nodeid)
            if report.outcome != "passed":
                self.reasons[report.nodeid] = report.longreprtext

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.ended["failed"].append(report.nodeid)
            self.reasons[report.nodeid] = report.longreprtext


def main() -> None:
    options = parser((__doc__ or "").partition("\n")[0])
    given = options.parse_args()
    pictures, _, found = begin(given, device="auto")
    os.chdir(REPOSITORY)
    sys.path.insert(0, str(REPOSITORY))
    files = sorted(path for path in Path("tests").rglob("test_*.py") if MARK in path.read_text())
    outcomes = Outcomes()
    words = [*map(str, files), "-m", "gpu", "-q", "-rs", "-p", "no:cacheprovider"]
    status = pytest.main(words, plugins=[outcomes])
    counts = {end: len(tests) for end, tests in outcomes.ended.items()}
    told = {"pictures": pictures, "files": [*map(str, files)], "counts": counts, "reasons": outcomes.reasons}
    write(given.out, "gpu_tests", {**found, **told})
    if status:
        raise SystemExit(f"pytest ended with {int(status)}; failed: {', '.join(outcomes.ended['failed'])}")
    if not (outcomes.ended["passed"] or given.tiny):
        raise SystemExit("nothing was run: torch finds no GPU")


if __name__ == "__main__":
    main()
