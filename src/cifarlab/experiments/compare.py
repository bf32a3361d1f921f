"""Comparison of recipes or runs over seeds. Missing runs of recipes are trained first.

An arm holds the runs of one name, which differ in the seed only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cifarlab.config import Config, recipes
from cifarlab.config.imports import import_named
from cifarlab.config.merge import parse_override, refuse_twice
from cifarlab.config.recipes import Recipe, read_recipe, resolve
from cifarlab.core.errors import ConfigError, did_you_mean
from cifarlab.evaluation.score import evaluate
from cifarlab.experiments.idle_options import refuse_idle_at_once, refuse_idle_overrides
from cifarlab.experiments.records import Comparison, ComparisonRow, JudgedDifference, Metric
from cifarlab.experiments.seeds import refuse_mixed_seeds
from cifarlab.experiments.statistics import difference, estimate, optimism
from cifarlab.experiments.wording import described, held_out_share, notes, unless_nan
from cifarlab.runs.folder import Run, recorded_run
from cifarlab.runs.ledger import openings
from cifarlab.runs.log import read_log
from cifarlab.runs.model import saved_recipe
from cifarlab.runs.naming import finished_names, run_name, spelled
from cifarlab.runs.summary import Summary
from cifarlab.training.missing_teachers import train_teachers
from cifarlab.training.progress import TrainingProgress
from cifarlab.training.several_runs import Task, train_all

# Advice if a name is taken by a run of another configuration: these commands have no --name.
APART = "keep these runs apart with --runs another_folder"
# The name that each name is compared with.
Against = Literal["first", "previous"]


@dataclass(frozen=True)
class Arm:
    """The runs of one name in a comparison, which differ in the seed only.

    Attributes:
        name: Name of the runs.
        recipe: Name of their recipe.
        runs: The runs by seed.
        configs: Configurations by seed, to train the missing runs with. Empty if nothing is to be trained.
    """

    name: str
    recipe: str
    runs: Mapping[int, Run]
    configs: Mapping[int, Config]


def run_comparison(
    names: Sequence[str],
    runs: Path,
    seeds: int | None,
    overrides: Sequence[str],
    metric: Metric,
    progress: TrainingProgress,
    at_once: int,
    *,
    imports: Sequence[Path | str] = (),
    against: Against = "first",
) -> Comparison:
    """Train missing runs, then compare recipes or finished runs over seeds.

    Args:
        names: Two or more names that `find_arm` accepts.
        runs: Folder of all runs.
        seeds: Number of seeds to compare; missing runs are trained. None: compare the finished runs.
        overrides: Overrides of each recipe. They need `seeds`.
        metric: Accuracy to compare: val or test. Each use of the test set is recorded in the ledger.
        progress: Receives the progress of the training.
        at_once: Number of runs that are trained at the same time. More than 1 needs `seeds`.
        imports: Python files or modules that register the runs' custom parts.
        against: Compare each name with the first name, or with the previous one.

    Raises:
        ConfigError: There are fewer than two names, a name is given twice, or `find_arm`, `train_missing` or
            `compare_arms` fails.
    """
    if len(names) < 2:
        raise ConfigError("compare needs at least two names")
    refuse_twice(overrides)
    refuse_idle_overrides(overrides, seeds)
    refuse_idle_at_once(at_once, seeds)
    arms = [find_arm(name, runs, seeds, overrides=overrides, imports=imports) for name in names]
    if len({arm.name for arm in arms}) < len(arms):
        raise ConfigError("compare got the same name twice")
    train_missing(arms, runs, progress, at_once)
    return compare_arms(arms, metric, against)


def trained_arm(name: str, recipe: Recipe, runs: Path, seeds: int, *, overrides: Sequence[str] = ()) -> Arm:
    """Return a recipe's arm for seeds 0 to `seeds` - 1.

    Its runs lie in `runs`/`name`. Missing runs are not trained here, but by `train_missing`.

    Raises:
        ConfigError: An override does not fit the recipe, or sets the seed.
    """
    refuse_another_seed(seeds, overrides)
    configs = {seed: resolve(recipe, [*overrides, f"train.seed={seed}"]) for seed in range(seeds)}
    found = {
        seed: Run(runs / name / str(seed), recipe=recipe.name, name=name, recipe_files=recipe.files)
        for seed in configs
    }
    return Arm(name, recipe.name, found, configs)


def refuse_another_seed(seeds: int, overrides: Sequence[str]) -> None:
    """Raise ConfigError if an override sets `train.seed`, which `seeds` sets."""
    for text in overrides:
        train = parse_override(text).get("train")
        if isinstance(train, Mapping) and "seed" in train:
            raise ConfigError(f"--seeds {seeds} and train.seed contradict each other; give one of them")


def find_arm(
    text: str,
    runs: Path,
    seeds: int | None,
    *,
    overrides: Sequence[str] = (),
    imports: Sequence[Path | str] = (),
) -> Arm:
    """Find the arm of a recipe, a YAML file, or finished runs.

    If there are runs of the name but no recipe, further seeds are trained with the first run's configuration.

    Args:
        text: Name of a recipe, path of a YAML file, or name or folder of runs.
        runs: Folder of all runs.
        seeds: Number of seeds; missing runs are trained later. None: the finished runs of that name.
        overrides: Overrides of the recipe.
        imports: Python files or modules that register the runs' custom parts.

    Raises:
        ConfigError: There is no such recipe and no such run, or the finished runs differ in more than seeds.
    """
    import_named(imports)
    is_file = text.endswith((".yaml", ".yml"))
    name = read_recipe(text).name if is_file else _name(text, runs)
    is_recipe = is_file or name in recipes.recipe_names()
    if seeds is not None and is_recipe:
        return trained_arm(name, read_recipe(text if is_file else name), runs, seeds, overrides=overrides)
    finished = {seed: Run(runs / name / str(seed), name=name) for seed in _finished_seeds(runs / name)}
    if not finished:
        if (runs / name / "config.yaml").exists():
            whole = Path(name).parent.as_posix()
            raise ConfigError(f"{text} is one seed of {whole}; use {whole}: all its seeds are compared")
        if is_recipe:
            raise ConfigError(f"no finished run of {name} in {runs}; add --seeds 3 to train three seeds")
        hint = (
            did_you_mean(name, finished_names(runs) | set(recipes.recipe_names()))
            or "`cifarlab list` shows the recipes"
        )
        raise ConfigError(f"no recipe and no finished run {name!r} in {runs}; {hint}")
    first = finished[min(finished)]
    summary = first.finished()
    recipe = summary.recipe or name
    if seeds is None:
        refuse_mixed_seeds(name, finished)
        return Arm(name, recipe, finished, {})
    if summary.soup is not None:
        raise ConfigError(
            f"{name} is a soup, which has no seeds to train; train the others first, then omit --seeds"
        )
    return trained_arm(
        name, saved_recipe(recorded_run(first.folder), imports=imports), runs, seeds, overrides=overrides
    )


def _name(text: str, runs: Path) -> str:
    """Return the name of runs that are given by name or folder."""
    folder, above = (Path(spelled(Path(path).absolute().as_posix())) for path in (text, runs))
    is_below = folder.is_relative_to(above) and folder != above
    return folder.relative_to(above).as_posix() if is_below else run_name(text)


def _finished_seeds(folder: Path) -> list[int]:
    return sorted(
        int(path.parent.name) for path in folder.glob("*/summary.json") if path.parent.name.isdecimal()
    )


def train_missing(arms: Sequence[Arm], runs: Path, progress: TrainingProgress, at_once: int) -> None:
    """Train all unfinished runs, and their teachers first.

    The runs of one seed are trained before those of the next. So the arms of an interrupted comparison have
    the same seeds, as far as possible.

    Args:
        arms: The arms of the comparison.
        runs: Folder of all runs.
        progress: Receives the progress of the training.
        at_once: Number of runs that are trained at the same time.

    Raises:
        ConfigError: A folder holds a run of another configuration. Nothing has been trained then.
    """
    waiting = [(seed, arm) for arm in arms for seed in arm.configs]
    for seed, arm in waiting:
        arm.runs[seed].refuse_other(arm.configs[seed], APART)
    for arm in arms:
        train_teachers([(config, arm.runs[seed]) for seed, config in arm.configs.items()], runs, progress)
    tasks = (
        Task(arm.configs[seed], arm.runs[seed])
        for seed, arm in sorted(waiting, key=lambda pair: pair[0])
        if arm.runs[seed].summary() is None
    )
    train_all(tasks, at_once, progress)


def compare_arms(arms: Sequence[Arm], metric: Metric, against: Against) -> Comparison:
    """Compare each arm with the first arm, or with the previous one.

    Accuracies are fractions. The p-values are corrected for several comparisons by Holm's method. With the
    metric `test`, runs without a test score are scored on test, which is recorded in the ledger.

    Raises:
        ConfigError: A run lacks the score.
    """
    scores = [
        {seed: _score(run, metric, arm.configs.get(seed)) for seed, run in arm.runs.items()} for arm in arms
    ]
    others = [0 if against == "first" else i - 1 for i in range(1, len(arms))]
    found = described(
        [difference(scores[i], scores[other]) for i, other in enumerate(others, 1)],
        against=[arms[other].name for other in others],
    )
    rows = zip(arms, scores, [None, *found], strict=True)
    runs = next(iter(arms[0].runs.values())).runs
    return Comparison(
        metric=metric,
        arms=[_row(arm, by_seed, metric, apart) for arm, by_seed, apart in rows],
        notes=notes({arm.name: _sides(arm) for arm in arms}, metric),
        test_opened=len(openings(runs)),
    )


def _score(run: Run, metric: Metric, config: Config | None) -> float:
    score = run.finished().top1(metric)
    if score is None and metric == "val":
        raise ConfigError(f"{run} has no validation score; use --metric test, which opens the test set")
    if score is not None:
        return score
    root = config.data.root if config else None
    return evaluate(run.folder, split="test", root=root, reader="compare").top1


def _row(
    arm: Arm, scores: Mapping[int, float], metric: Metric, apart: JudgedDifference | None
) -> ComparisonRow:
    summaries = [run.finished() for run in arm.runs.values()]
    found = estimate([*scores.values()])
    chosen_on = sorted({summary.chosen_on for summary in summaries})
    flattered = (
        [best_epoch_optimism(run, metric) for run in arm.runs.values()] if chosen_on == [metric] else []
    )
    known = [points for points in flattered if points is not None]
    return ComparisonRow(
        name=arm.name,
        recipe=arm.recipe,
        chosen_on=", ".join(chosen_on),
        seeds=[*scores],
        scores=[*scores.values()],
        n=found.n,
        mean=float(found.mean),
        sd=unless_nan(found.sd),
        low=unless_nan(found.low),
        high=unless_nan(found.high),
        optimism=sum(known) / len(known) if known else None,
        minutes=sum(summary.seconds for summary in summaries) / len(summaries) / 60,
        difference=apart,
    )


def best_epoch_optimism(run: Run, metric: Metric) -> float | None:
    """Estimate how much the choice of the best epoch raises its score.

    The epoch was chosen by `metric`. If that is test and there are validation scores, the estimate is the
    test score of the chosen epoch minus that of the epoch that validation would choose. Otherwise it is that
    of `statistics.optimism`, from the scores of all epochs. None if there are too few epochs.
    """
    rows = [row for row in read_log(run.metrics_path) if f"{metric}/top1" in row]
    scores = [row[f"{metric}/top1"] for row in rows]
    if metric == "test" and rows and "val/top1" in rows[0]:
        return max(scores) - max(rows, key=lambda row: row["val/top1"])["test/top1"]
    return optimism(scores)


def _sides(arm: Arm) -> list[tuple[Summary, str]]:
    return [(run.finished(), held_out_share(run.plain_config())) for run in arm.runs.values()]
