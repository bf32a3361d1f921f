"""Results of whole training runs: read from benchmarks/results/, and brought there.

    python benchmarks/whole.py FOLDER

copies the finished runs below FOLDER (NAME/SEED/config.yaml, env.json, metrics.jsonl, summary.json) that
benchmarks/queue.txt names to benchmarks/results/whole/, without the paths of the machine that trained them.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import read_recipe

from cifarlab.config import Config
from cifarlab.config.recipes import resolve
from cifarlab.core.errors import ConfigError
from cifarlab.core.files import read_json, write_json
from cifarlab.experiments.statistics import Estimate, estimate, optimism
from cifarlab.runs.folder import Run, changes_since
from cifarlab.runs.log import read_log

ROOT = Path(__file__).resolve().parents[1]
FILES = ("config.yaml", "env.json", "metrics.jsonl", "summary.json")


@dataclass(frozen=True)
class Line:
    """A line of the queue: a run's name and seed, its recipe and the overrides laid over it."""

    name: str
    seed: int
    recipe: str
    overrides: tuple[str, ...]

    @property
    def command(self) -> str:
        """The command that trains the line's recipe under its overrides, at seed 0 and under its own name."""
        return shlex.join(["cifarlab", "train", self.recipe, *self.overrides])

    def config(self) -> Config:
        """Resolve today's recipe at the line's seed. Raises ConfigError where it does not resolve."""
        return resolve(read_recipe(self.recipe), [*self.overrides, f"train.seed={self.seed}"])


@dataclass(frozen=True)
class Finished:
    """One finished run, scored on test. Accuracies are fractions.

    Attributes:
        chosen_on: What chose the epoch: `val`, `test` or `last`.
        epochs: Epochs that were run.
        optimism: By how much the choice on test flatters (see `statistics.optimism`). None where val or the
            end chose, and where the curve is too short.
        pictures: Training pictures shown in all epochs, repeats counted.
        evaluations: Epochs after which validation or test pictures were scored.
        minutes: Measured on a quiet machine; None where the run's own seconds mean nothing.
        cores: Of the machine.
    """

    seed: int
    test: float
    val: float | None
    train: float | None
    chosen_on: str
    epochs: int
    optimism: float | None
    pictures: int
    evaluations: int
    minutes: float | None
    cores: int
    commit: str
    torch: str
    time: str


@dataclass(frozen=True)
class Result:
    """The runs of one name that are finished, first seed first, and how many are planned."""

    name: str
    recipe: str
    overrides: tuple[str, ...]
    runs: tuple[Finished, ...]
    planned: int

    @property
    def command(self) -> str:
        return Line(self.name, 0, self.recipe, self.overrides).command

    @property
    def test(self) -> Estimate:
        return estimate([run.test for run in self.runs])

    @property
    def val(self) -> Estimate | None:
        known = [run.val for run in self.runs if run.val is not None]
        return estimate(known) if len(known) == len(self.runs) else None

    @property
    def chosen_on(self) -> str:
        return ", ".join(sorted({run.chosen_on for run in self.runs}))

    @property
    def seeds(self) -> str:
        """`3 seeds`, or `1 of 3 seeds` while some are missing."""
        done = len(self.runs)
        if done < self.planned:
            return f"{done} of {self.planned} seeds"
        return f"{done} seed{'s' * (done != 1)}"

    @property
    def summary(self) -> str:
        """`38.90 [38.46, 39.34] (3 seeds)`: mean on test in percent, its 95 % interval, the seeds."""
        how = self.seeds
        if self.chosen_on == "test":
            how = f"best of {self.runs[0].epochs} epochs on test, {how}"
        return f"{percent(self.test)} ({how})"


@dataclass(frozen=True)
class Results:
    """What can be shown by name, and a line for each run that cannot."""

    shown: Mapping[str, Result]
    left_out: tuple[str, ...]


def percent(values: Estimate) -> str:
    """`38.90 [38.46, 39.34]`: a mean of fractions in percent, with its interval if it has one."""
    text = f"{100 * values.mean:.2f}"
    if values.n > 1:
        text += f" [{100 * values.low:.2f}, {100 * values.high:.2f}]"
    return text


def read_queue(path: Path) -> tuple[Line, ...]:
    """Read a queue: NAME SEED RECIPE [key=value ...] a line. Raises ConfigError naming a wrong line."""
    lines: list[Line] = []
    for number, text in enumerate(path.read_text().splitlines(), 1):
        if not text.strip() or text.lstrip().startswith("#"):
            continue
        try:
            words = shlex.split(text)
            name, seed, recipe, *overrides = words
            line = Line(name, int(seed), recipe, tuple(overrides))
            if not all("=" in word for word in overrides):
                raise ValueError
        except ValueError:
            raise ConfigError(f"{path}, line {number}: expected NAME SEED RECIPE [key=value ...]") from None
        if any((line.name, line.seed) == (other.name, other.seed) for other in lines):
            raise ConfigError(f"{path}, line {number}: {name} {seed} stands in another line, too")
        lines.append(line)
    return tuple(lines)


def read_results(results: Path, queue: Sequence[Line]) -> Results:
    """Read `results`/whole/NAME/SEED and the timed runs of `results`/speed_*.json.

    Runs whose configuration differs from that of today's recipe, that were not scored on test, or that
    cannot be read are left out, each with a line that says why.
    """
    found: dict[str, tuple[Line, list[Finished]]] = {}
    left_out: list[str] = []
    planned: dict[str, int] = {}
    for line in queue:
        planned[line.name] = planned.get(line.name, 0) + 1
    lines = {(line.name, line.seed): line for line in queue}
    whole = results / "whole"
    for path in sorted(whole.rglob("summary.json"), key=_by_seed):
        folder = path.parent
        try:
            line = _line_of(folder, whole, lines)
            finished = _read_run(folder, line)
        except ConfigError as error:
            left_out.append(f"{folder.relative_to(whole)}: {error}".replace(f"{folder}/", ""))
            continue
        found.setdefault(line.name, (line, []))[1].append(finished)
    shown = {
        name: Result(name, line.recipe, line.overrides, tuple(runs), max(planned.get(name, 0), len(runs)))
        for name, (line, runs) in found.items()
    }
    for path in sorted(results.glob("speed_*.json")):
        try:
            result = _read_timed(path)
        except ConfigError as error:
            left_out.append(f"{path.name}: {error}")
            continue
        shown.setdefault(result.name, result)
    return Results(shown, tuple(left_out))


def _by_seed(path: Path) -> tuple[str, int, str]:
    seed = path.parent.name
    return path.parents[1].as_posix(), int(seed) if seed.isdecimal() else 0, seed


def _line_of(folder: Path, whole: Path, lines: Mapping[tuple[str, int], Line]) -> Line:
    """Find how the run in a folder was planned; a run that the queue does not name is its recipe's."""
    name = folder.parent.relative_to(whole).as_posix()
    if not folder.name.isdecimal():
        raise ConfigError("the folder is not called by a seed")
    seed = int(folder.name)
    recipe = Run(folder).finished().recipe
    planned = lines.get((name, seed), Line(name, seed, recipe, ()))
    if planned.recipe == name or (name, seed) in lines:
        return planned
    raise ConfigError("benchmarks/queue.txt does not name it")


def _read_run(folder: Path, line: Line) -> Finished:
    run = Run(folder)
    summary, env = run.finished(), read_json(run.env_path)
    _refuse_changes(changes_since(run.plain_config(), line.config()))
    if summary.test_top1 is None:
        raise ConfigError("it was not scored on test")
    rows = read_log(run.metrics_path)
    chosen_on = summary.chosen_on
    curve = [row["test/top1"] for row in rows if "test/top1" in row]
    if chosen_on == "test" and (not curve or max(curve) != summary.test_top1):
        raise ConfigError("the best epoch of metrics.jsonl is not the test score of summary.json")
    return Finished(
        seed=line.seed,
        test=summary.test_top1,
        val=summary.val_top1,
        train=summary.train_top1,
        chosen_on=chosen_on,
        epochs=summary.epochs_run or summary.epochs,
        optimism=optimism(curve) if chosen_on == "test" else None,
        # The summary has their number over the run's seconds, which alone mean nothing here.
        pictures=round((summary.images_per_second or 0) * summary.seconds),
        evaluations=sum(any(f"{split}/top1" in row for split in ("val", "test")) for row in rows),
        minutes=None,
        cores=int(env["hardware"]["cores"]),
        commit=str((env.get("git") or {}).get("commit", "")),
        torch=str(env["versions"]["torch"]),
        time=str(env["time"]),
    )


def _refuse_changes(changed: Mapping[str, tuple[Any, Any]]) -> None:
    if changed:
        keys = "; ".join(f"{key}: {old!r} then, {new!r} now" for key, (old, new) in [*changed.items()][:3])
        raise ConfigError(f"its configuration is not that of today's recipe ({keys})")


def _read_timed(path: Path) -> Result:
    """Read what benchmarks/speed.py wrote: runs on a quiet machine, whose seconds count."""
    content = read_json(path)
    recipe, overrides = str(content["recipe"]), tuple(content["overrides"])
    if content["hold_out"]:
        raise ConfigError("it was scored on training pictures that were held out")
    today = resolve(read_recipe(recipe), [*overrides, "train.seed=0"])
    _refuse_changes(changes_since(content["config"], today))
    runs = [
        Finished(
            seed=int(run["seed"]),
            test=float(run["test_top1"]),
            val=None,
            train=run.get("train_top1"),
            chosen_on="last",
            epochs=int(content["config"]["train"]["epochs"]),
            optimism=None,
            pictures=0,
            evaluations=0,
            minutes=run["seconds"] / 60,
            cores=int(content["hardware"]["cores"]),
            commit=str((content["git"] or {}).get("commit", "")),
            torch=str(content["versions"]["torch"]),
            time=str(content["time"]),
        )
        for run in content["runs"]
    ]
    return Result(recipe, recipe, overrides, tuple(runs), len(runs))


def bring(source: Path, target: Path, queue: Iterable[Line]) -> list[str]:
    """Copy the finished runs that the queue names from `source` to `target`: their names.

    Absolute paths in env.json are cut to their last part.
    """
    brought = []
    for line in queue:
        place = Path(line.name) / str(line.seed)
        if not all((source / place / name).is_file() for name in FILES):
            continue
        (target / place).mkdir(parents=True, exist_ok=True)
        for name in FILES:
            if name == "env.json":
                env = json.loads((source / place / name).read_text())
                write_json(target / place / name, without_machine(env))
            else:
                shutil.copyfile(source / place / name, target / place / name)
        brought.append(place.as_posix())
    return brought


def without_machine(value: Any) -> Any:
    """Cut absolute paths in plain data to their last part."""
    if isinstance(value, dict):
        return {key: without_machine(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_machine(inner) for inner in value]
    if isinstance(value, str):
        return re.sub(r"(?<![\w/.:])/(?:[\w.+-]+/)+([\w.+-]+)", r"\1", value)
    return value


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("folder", type=Path, help="where the finished runs are")
    given = options.parse_args()
    queue = read_queue(ROOT / "benchmarks" / "queue.txt")
    for name in bring(given.folder, ROOT / "benchmarks" / "results" / "whole", queue):
        print(name)
    for line in read_results(ROOT / "benchmarks" / "results", queue).left_out:
        print(f"not shown: {line}")


if __name__ == "__main__":
    main()
