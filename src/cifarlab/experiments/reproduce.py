"""Reproduction of the published tutorial's experiments: as its code runs them, and corrected."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cifarlab.config import Config
from cifarlab.config.recipes import read_recipe
from cifarlab.core.errors import ConfigError, did_you_mean
from cifarlab.experiments.compare import APART, Arm, compare_arms, trained_arm
from cifarlab.experiments.records import (
    Budget,
    ComparisonRow,
    JudgedDifference,
    Lesson,
    MeasuredOn,
    ReproducedRow,
    ReproducedSide,
    Reproduction,
    SideName,
    StandIn,
    by_seed,
)
from cifarlab.experiments.statistics import difference
from cifarlab.experiments.tutorial import AS_RUN, Experiment, Setting, experiments, find_setting
from cifarlab.experiments.wording import described
from cifarlab.runs.environment import Environment
from cifarlab.runs.folder import Run
from cifarlab.training.missing_teachers import train_teachers
from cifarlab.training.progress import TrainingProgress
from cifarlab.training.several_runs import Task, train_all

# Minutes per run on a CPU. A ResNet-18 memorizes this fifth of the pictures, as in 200 epochs all of them.
SHORT = ("data.limit=10000", "train.epochs=20")
LARGEST_SHORT = 64  # Largest side length in pixels: larger pictures would still take hours.


@dataclass(frozen=True)
class Row:
    """An experiment of the tutorial, with its two sides: as_run and corrected.

    Attributes:
        experiment: The experiment.
        arms: The runs of each side.
        missing: Reason why a side has no scores, by side.
    """

    experiment: Experiment
    arms: dict[SideName, Arm]
    missing: dict[SideName, str]

    @property
    def name(self) -> str:
        """Return the experiment's name."""
        return self.experiment.name


def reproduce(
    runs: Path,
    seeds: int,
    budget: Budget,
    overrides: Sequence[str],
    only: Sequence[str],
    start: Path | None,
    progress: TrainingProgress,
    at_once: int,
) -> Reproduction:
    """Train the missing runs of the tutorial's experiments, and compare them.

    "As run" follows the published code, which scores test at every epoch and chooses the best one.
    "Corrected" chooses the epoch by validation accuracy, and scores test once. All accuracies are on test.
    Experiments that cannot be trained, e.g. for lack of weights, are in the result, with the reason.

    Args:
        runs: Folder of all runs.
        seeds: Number of seeds.
        budget: short (few pictures and epochs, see SHORT) or whole (as published).
        overrides: Overrides of each experiment, after those of the budget.
        only: Names of experiments, such as resnet18_baseline. Empty: all of them.
        start: Folder of a run. Its weights replace ImageNet-pretrained ones of the same backbone.
        progress: Receives the progress of the training.
        at_once: Number of runs that are trained at the same time.

    Raises:
        ConfigError: An argument is wrong, or a folder holds a run of another configuration.
    """
    stand_in = _described_start(start)
    rows = [_row(experiment, runs, seeds, budget, overrides, start) for experiment in _chosen(only)]
    _train(rows, runs, progress, at_once)
    arms = [row.arms[side] for row in rows for side in row.arms if side not in row.missing]
    if not arms:
        reasons = "; ".join(dict.fromkeys(reason for row in rows for reason in row.missing.values()))
        raise ConfigError(f"no experiment could be measured: {reasons}")
    first = next(iter(arms[0].runs.values()))
    env = _measured_on(first)  # It may be damaged, so it is read before test is opened.
    scored = {arm.name: arm for arm in compare_arms(arms, "test", "first").arms}
    table = [_figures(row, scored) for row in rows]
    return Reproduction(
        budget=budget,
        pictures=first.plain_config()["data"]["limit"],
        epochs=first.finished().epochs,
        overrides=list(overrides),
        start=stand_in,
        rows=_with_corrections(table),
        lessons=_lessons(table),
        env=env,
    )


def _chosen(only: Sequence[str]) -> list[Experiment]:
    known = experiments()
    for name in only:
        if name not in known:
            hint = did_you_mean(name, known) or f"the tutorial's are {', '.join(known)}"
            raise ConfigError(f"--only {name!r} is no experiment of the tutorial; {hint}")
    return [experiment for name, experiment in known.items() if not only or name in only]


def _row(
    experiment: Experiment,
    runs: Path,
    seeds: int,
    budget: Budget,
    overrides: Sequence[str],
    start: Path | None,
) -> Row:
    arms: dict[SideName, Arm] = {}
    missing: dict[SideName, str] = {}
    sides: dict[SideName, tuple[str, Setting]] = {
        "as_run": (AS_RUN + experiment.name, experiment.as_run),
        "corrected": (experiment.name, experiment.corrected),
    }
    for side, (name, setting) in sides.items():
        short = SHORT if budget == "short" else ()
        words = [*setting.overrides, *short, *_start_words(setting, start), *overrides]
        arms[side] = trained_arm(name, read_recipe(setting.recipe), runs, seeds, overrides=words)
        if budget == "short" and (reason := _too_long(arms[side].configs[0])):
            missing[side] = reason
    return Row(experiment, arms, missing)


def _start_words(setting: Setting, start: Path | None) -> list[str]:
    """Return overrides that replace the setting's pretrained weights by those of `start`."""
    if start is None:
        return []
    own = setting.config().dump()["model"]["backbone"]
    starts = Run(start).plain_config()["model"]["backbone"]
    if not own.get("pretrained") or own["name"] != starts["name"]:
        return []  # There are no pretrained weights to replace, or they are of another backbone.
    return ["model.backbone.pretrained=false", f"model.init={start.resolve()}"]


def _too_long(config: Config) -> str | None:
    sizes = [config.data.image_size]
    for name in config.teacher.run if config.teacher is not None else ():
        setting = find_setting(name)
        if setting is not None:
            sizes.append(setting.config().data.image_size)
    if max(sizes) <= LARGEST_SHORT:
        return None
    whose = "its teacher's pictures" if sizes[0] <= LARGEST_SHORT else "pictures"
    return f"{whose} of {max(sizes)} px exceed the short budget; use --budget whole"


def _train(rows: Sequence[Row], runs: Path, progress: TrainingProgress, at_once: int) -> None:
    """Train missing runs seed by seed; record failures in the rows."""
    waiting = list(_waiting(rows))
    for _, _, config, run in waiting:
        run.refuse_other(config, APART)
    sides: dict[Path, tuple[Row, SideName]] = {run.folder: (row, side) for row, side, _, run in waiting}

    def leave_out(task: Task, error: ConfigError) -> None:
        row, side = sides[task.run.folder]  # E.g. weights cannot be downloaded. Others do not need them.
        if side not in row.missing:
            row.missing[side], _, fix = str(error).partition("; ")
            progress.note(f"{task.run}: left out: {row.missing[side]}" + (f"; {fix}" if fix else ""))

    def taught(learns: Sequence[bool]) -> Iterator[Task]:
        """Train missing teachers, and yield the unfinished runs as tasks.

        `learns` selects runs with a teacher (True), without one (False), or both.
        """
        for row, side, config, run in waiting:
            if bool(config.teacher_outputs) not in learns or side in row.missing or run.summary() is not None:
                continue
            try:
                train_teachers([(config, run)], runs, progress)
            except ConfigError as error:
                leave_out(Task(config, run), error)
            else:
                yield Task(config, run)

    if at_once == 1:
        train_all(taught((False, True)), at_once, progress, left_out=leave_out)
        return
    # Teachers are trained in this process, and may be among the runs without a teacher. So these come first.
    train_all(taught([False]), at_once, progress, left_out=leave_out)
    train_all(list(taught([True])), at_once, progress, left_out=leave_out)


def _waiting(rows: Sequence[Row]) -> Iterator[tuple[Row, SideName, Config, Run]]:
    sides: list[tuple[Row, SideName, Arm]] = [
        (row, side, arm) for row in rows for side, arm in row.arms.items() if side not in row.missing
    ]
    for seed in sorted({seed for _, _, arm in sides for seed in arm.configs}):
        for row, side, arm in sides:
            yield row, side, arm.configs[seed], arm.runs[seed]


def _figures(row: Row, scored: Mapping[str, ComparisonRow]) -> ReproducedRow:
    """Return a row of the table, whose `difference` is still None."""
    experiment = row.experiment
    sides = {side: _side(scored[arm.name]) for side, arm in row.arms.items() if side not in row.missing}
    return ReproducedRow(
        name=row.name,
        what=experiment.what,
        published=None if experiment.published is None else experiment.published / 100,
        as_run=sides.get("as_run"),
        corrected=sides.get("corrected"),
        missing=row.missing,
        difference=None,
    )


def _side(row: ComparisonRow) -> ReproducedSide:
    return ReproducedSide(
        mean=row.mean,
        sd=row.sd,
        low=row.low,
        high=row.high,
        n=row.n,
        seeds=row.seeds,
        scores=row.scores,
        chosen_on=row.chosen_on,
        optimism=row.optimism,
        minutes=row.minutes,
    )


def _judged(
    pairs: Sequence[tuple[ReproducedSide | None, ReproducedSide | None]],
) -> list[JudgedDifference | None]:
    """Return first minus second of each pair; None if one is missing."""
    measured = {
        i: difference(by_seed(ours), by_seed(others))
        for i, (ours, others) in enumerate(pairs)
        if ours is not None and others is not None
    }
    found = dict(zip(measured, described([*measured.values()]), strict=True))
    return [found.get(i) for i in range(len(pairs))]


def _with_corrections(table: Sequence[ReproducedRow]) -> list[ReproducedRow]:
    """Return the rows with `difference` set: `corrected` minus `as_run`."""
    found = _judged([(row.corrected, row.as_run) for row in table])
    return [row.changed(difference=one) for row, one in zip(table, found, strict=True)]


def _lessons(table: Sequence[ReproducedRow]) -> list[Lesson]:
    """Compare each experiment with the one it builds on, as run and corrected."""
    rows, known = {row.name: row for row in table}, experiments()
    pairs = [(row, rows[base]) for row in table if (base := known[row.name].builds_on) in rows]
    as_run = _judged([(row.as_run, base.as_run) for row, base in pairs])
    corrected = _judged([(row.corrected, base.corrected) for row, base in pairs])
    return [
        Lesson(
            name=row.name,
            what=row.what,
            builds_on=base.name,
            published=_less(row.published, base.published),
            as_run=one,
            corrected=other,
        )
        for (row, base), one, other in zip(pairs, as_run, corrected, strict=True)
    ]


def _less(ours: float | None, other: float | None) -> float | None:
    return None if ours is None or other is None else ours - other


def _described_start(start: Path | None) -> StandIn | None:
    """Describe the run `start` for the result; None if there is none."""
    if start is None:
        return None
    run = Run(start)
    config, summary = run.plain_config(), run.finished()
    return StandIn(
        recipe=summary.recipe,
        epochs=summary.epochs,
        backbone=config["model"]["backbone"]["name"],
        image_size=config["data"]["image_size"],
    )


def _measured_on(run: Run) -> MeasuredOn:
    env = Environment.read(run.env_path)
    return MeasuredOn.model_validate(env.model_dump(include={*MeasuredOn.model_fields}))
