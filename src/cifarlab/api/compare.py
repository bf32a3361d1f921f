"""`cifarlab.compare`, the Python form of the command `compare`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

from cifarlab.api.overrides import override_texts
from cifarlab.core.errors import ConfigError, unknown
from cifarlab.core.plain import Plain
from cifarlab.experiments.compare import Against, run_comparison
from cifarlab.experiments.records import Comparison, Metric
from cifarlab.training.progress import TrainingProgress


def compare(
    names: Sequence[str | Path],
    *,
    runs: str | Path = "runs",
    seeds: int | None = None,
    metric: Metric = "val",
    against: Against = "first",
    overrides: Mapping[str, Plain] | None = None,
    at_once: int = 1,
    imports: Sequence[str | Path] = (),
    show_progress: bool = False,
) -> Comparison:
    """Compare recipes or runs over seeds.

    With `seeds`, missing runs are trained first.

    Args:
        names: Two or more names of recipes (see `cifarlab list`), paths of YAML files, or names of runs in
            `runs`.
        runs: Folder of all runs. Each run lies in `runs`/name/seed.
        seeds: Compare seeds 0 to `seeds` - 1 of each name. None: compare the finished runs; nothing is
            trained.
        metric: Accuracy to compare: val or test. With test, runs without a test score are scored on the test
            set. Each use of the test set is recorded and counted.
        against: Compare each name with the first name, or with the previous one.
        overrides: Options that differ from each recipe, by path: {"train.epochs": 20}. They need `seeds`.
        at_once: Number of runs that are trained at the same time, each in its own process. More than 1 needs
            `seeds`, and a script that does its work below `if __name__ == "__main__":`.
        imports: Python files or modules that register the runs' custom parts.
        show_progress: Print the progress of the training, as the command line does.

    Returns:
        The content of `cifarlab compare --json` as an object. `arms` holds a row for each name: its scores,
        their mean, and the interval of the mean. `difference.verdict` of a row says in words whether its
        difference is significant. `to_json()` returns plain data.

    Raises:
        ConfigError: A name or an option is wrong, a folder holds a run with a configuration other than the
            recipe's, a run lacks the score, or the runs of a name differ in more than the seed.
        Failure: A loss is no longer finite, or the disk is full (`cifarlab.core.errors`).
        Interrupted: SIGINT or SIGTERM stopped the training (`cifarlab.runs.signals`). The runs are saved,
            and the same call resumes them.

    Example:
        >>> found = cifarlab.compare(["demo", "resnet18_baseline"], seeds=2)
        >>> [arm.n for arm in found.arms]
        [2, 2]
        >>> found.arms[1].difference.against
        'demo'
    """
    for name, value, known in (("metric", metric, Metric), ("against", against, Against)):
        if value not in (choices := get_args(known)):
            raise ConfigError(f"{value!r}: {unknown(value, choices)}", (name,))
    for name, value in (("seeds", seeds), ("at_once", at_once)):
        if value is not None and value < 1:
            raise ConfigError(f"at least 1, got {value}", (name,))
    given = [names] if isinstance(names, str | Path) else names
    return run_comparison(
        [os.fspath(name) for name in given],
        Path(runs),
        seeds,
        override_texts(overrides),
        metric,
        TrainingProgress(quiet=not show_progress),
        at_once,
        imports=imports,
        against=against,
    )
