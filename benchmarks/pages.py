"""Write results into pages, recipe headers and README.md; every figure comes from benchmarks/results/.

    python benchmarks/pages.py           # after benchmarks/whole.py brought runs, or a study wrote its JSON
    python benchmarks/pages.py --check   # exit status 1 where a file differs from the results

A comment in the text names the file and the entry of a figure:

    <!-- result: transfer.json arms.from scratch.*.test_top1 as percent1 -->39.9<!-- /result -->
    <!-- result: whole/demo test_top1 -->64.60 (1 seed)<!-- /result -->

Entries are keys and positions joined by dots; `*` takes the mean over all positions. Formats are those of
FORMATS. Blocks between `<!-- generated: NAME -->` and `<!-- /generated -->` are written by the
function of that name in BLOCKS.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import yaml
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter
from PIL import Image
from rates import Rate, minutes_of, read_rates
from scipy import stats
from whole import ROOT, Line, Result, Results, percent, read_queue, read_results

from cifarlab.config.recipes import NOT_MEASURED_YET, Recipe, all_recipes
from cifarlab.core.errors import ConfigError
from cifarlab.core.files import read_json, write_atomically
from cifarlab.experiments.statistics import difference
from cifarlab.experiments.tutorial import AS_RUN, Experiment, experiments
from cifarlab.report.plot import COLORS, STYLE

CORES = 2
QUEUED = "queued"
TICKS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000)
FROM_SCRATCH = (
    "resnet18_baseline", "resnet18_augment", "resnet18_baseline_lbsmooth", "resnet18_baseline_wd01",
)  # fmt: skip
RESULT = re.compile(r"<!-- result: (\S+) (.+?)(?: as (\w+))? -->(.*?)<!-- /result -->", re.DOTALL)
BLOCK = re.compile(r"(<!-- generated: (\w+) -->\n).*?(<!-- /generated -->)", re.DOTALL)
FORMATS: dict[str, Callable[[float], str]] = {
    "percent1": lambda value: f"{100 * value:.1f}",
    "percent2": lambda value: f"{100 * value:.2f}",
    "points1": lambda value: f"{100 * abs(value):.1f}",
    "signed2": lambda value: f"{100 * value:+.2f}",
    "number0": lambda value: f"{value:.0f}",
    "number1": lambda value: f"{value:.1f}",
    "number2": lambda value: f"{value:.2f}",
    "minutes1": lambda value: f"{value / 60:.1f}",
}


@dataclass(frozen=True)
class Known:
    """All that pages are written from.

    Attributes:
        root: The repository, or a copy of what it holds.
    """

    root: Path
    results: Results
    rates: Mapping[str, Rate]
    queue: tuple[Line, ...]
    recipes: tuple[Recipe, ...]

    @property
    def shown(self) -> Mapping[str, Result]:
        return self.results.shown


def load(root: Path = ROOT, recipes: tuple[Recipe, ...] | None = None) -> Known:
    """Read the results, the queue and the package's recipes. recipes: in place of the package's."""
    folder = root / "benchmarks" / "results"
    queue = read_queue(root / "benchmarks" / "queue.txt")
    return Known(
        root,
        read_results(folder, queue),
        read_rates(folder / "rates.json"),
        queue,
        tuple(all_recipes()) if recipes is None else recipes,
    )


def header_result(recipe: Recipe, known: Known) -> tuple[str, str]:
    """What a recipe's header says of its result: (`measured` or `waits`, text).

    Raises ConfigError for a recipe that has no result, is not queued and gives no reason.
    """
    result = known.shown.get(recipe.name)
    if result is not None and result.recipe == recipe.name and not result.overrides:
        return "measured", result.summary
    if any(line.name == line.recipe == recipe.name and not line.overrides for line in known.queue):
        return "waits", QUEUED
    if recipe.waits in (None, QUEUED):
        raise ConfigError(f"{recipe.path}: about.waits: not measured and not queued; say why")
    return "waits", str(recipe.waits)


def with_header(recipe: Recipe, known: Known) -> str:
    """The text of a recipe's file with its result of now."""
    key, text = header_result(recipe, known)
    lines = recipe.path.read_text().splitlines(keepends=True)
    places = [i for i, line in enumerate(lines) if re.match(r"  (measured|waits):", line)]
    if len(places) != 1:
        found = f"found {len(places)}"
        raise ConfigError(f"{recipe.path}: expected one line `  measured:` or `  waits:`, {found}")
    plain = yaml.safe_load(f"{key}: {text}") if ": " not in text and not text.startswith("[") else None
    lines[places[0]] = f"  {key}: {text}\n" if plain == {key: text} else f"  {key}: {json.dumps(text)}\n"
    return "".join(lines)


def figure(known: Known, file: str, entry: str, form: str | None) -> str:
    """Format the figure that a result comment names. Raises ConfigError for an unknown file or entry."""
    where = f"result: {file} {entry}"
    if file.startswith("whole/"):
        name = file.removeprefix("whole/")
        planned = any(line.name == name for line in known.queue)
        result = known.shown.get(name)
        if result is None and not planned:
            raise ConfigError(f"{where}: no result and no line of the queue has this name")
        entries = {
            "test_top1": lambda: result.summary if result else NOT_MEASURED_YET,
            "minutes": lambda: _minutes(result, known) if result else NOT_MEASURED_YET,
            "seeds": lambda: result.seeds if result else NOT_MEASURED_YET,
        }
        if entry not in entries:
            raise ConfigError(f"{where}: expected one of {', '.join(entries)}")
        return entries[entry]()
    values = [*_at(read_json(known.root / "benchmarks" / "results" / file), entry.split("."), where)]
    if form not in FORMATS:
        raise ConfigError(f"{where}: the format {form} is none of {', '.join(FORMATS)}")
    if not values or not all(isinstance(value, int | float) for value in values):
        raise ConfigError(f"{where}: not a number")
    return FORMATS[form](sum(values) / len(values))


def _at(value: Any, keys: list[str], where: str) -> Iterator[Any]:
    if not keys:
        yield value
        return
    key, *rest = keys
    if key == "*" and isinstance(value, list):
        for inner in value:
            yield from _at(inner, rest, where)
        return
    try:
        inner = value[int(key)] if isinstance(value, list) else value[key]
    except (KeyError, IndexError, ValueError, TypeError):
        raise ConfigError(f"{where}: there is no {key!r}") from None
    yield from _at(inner, rest, where)


def with_results(text: str, known: Known, page: str) -> str:
    """A page's text with its marked figures and blocks of now. page: its path in the repository."""

    def written(match: re.Match[str]) -> str:
        file, entry, form, old = match.groups()
        start = match.group(0)[: -len(f"{old}<!-- /result -->")]
        return f"{start}{figure(known, file, entry, form)}<!-- /result -->"

    def block(match: re.Match[str]) -> str:
        head, name, tail = match.groups()
        if name not in BLOCKS:
            raise ConfigError(f"{page}: generated: {name} is none of {', '.join(BLOCKS)}")
        return head + "\n".join(BLOCKS[name](known, page)) + "\n" + tail

    if text.count("<!-- result:") != len(RESULT.findall(text)):
        raise ConfigError(f"{page}: a result comment is not closed, or not FILE ENTRY as FORMAT")
    return RESULT.sub(written, BLOCK.sub(block, text))


def recipe_table(known: Known, page: str) -> list[str]:
    """Recipes with their results: on README.md those without a folder, elsewhere all."""
    lines = ["| recipe | what it is | published | measured |", "|---|---|---|---|"]
    rows = [(recipe, *header_result(recipe, known)) for recipe in known.recipes]
    for recipe, key, text in sorted(rows, key=lambda row: row[1] != "measured"):
        if page == "README.md" and "/" in recipe.name:
            continue
        published = "-" if recipe.published is None else f"{recipe.published:.2f}"
        shown = text if key == "measured" else f"{NOT_MEASURED_YET}: {text}"
        lines.append(f"| `{recipe.name}` | {recipe.what} | {published} | {shown} |")
    return lines


def whole_table(known: Known, page: str) -> list[str]:
    """Every result, best first, with its command, seeds, interval and minutes; then what is missing."""
    lines = [
        "| command | test, % | seeds | validation, % | epoch chosen on | minutes | torch, commit |",
        "|---|---|---|---|---|---|---|",
    ]
    for result in sorted(known.shown.values(), key=lambda result: (-result.test.mean, result.name)):
        val = "-" if result.val is None else f"{100 * result.val.mean:.2f}"
        stands_on = sorted({(run.torch, run.commit[:9]) for run in result.runs})
        versions = "; ".join(f"{torch}, {commit}" for torch, commit in stands_on)
        best = f"best of {result.runs[0].epochs} on test"
        cells = (
            f"`{result.command}`",
            percent(result.test),
            result.seeds,
            val,
            best if result.chosen_on == "test" else result.chosen_on,
            _minutes(result, known),
            versions,
        )
        lines.append(f"| {' | '.join(cells)} |")
    waiting = dict.fromkeys(line.name for line in known.queue if line.name not in known.shown)
    if waiting:
        lines += ["", f"Queued: {', '.join(f'`{name}`' for name in waiting)}."]
    if known.results.left_out:
        lines += ["", "Not shown:", "", *(f"- {line}" for line in known.results.left_out)]
    return lines


def _minutes(result: Result, known: Known) -> str:
    minutes = minutes_of(result, known.rates)
    return NOT_MEASURED_YET if minutes is None else f"{minutes:.1f}"


def reproduce_table(known: Known, page: str) -> list[str]:
    """The tutorial's four rows from scratch at whole length: published, as run and corrected."""
    lines = [
        "| experiment | published | as run: best of 200 on test, % | seeds | optimism, points "
        "| as run minus published | corrected: chosen on validation, % | seeds | correction, points "
        "| minutes: as run, corrected |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name in FROM_SCRATCH:
        experiment = experiments()[name]
        sides = [known.shown.get(AS_RUN + name), known.shown.get(name)]
        as_run, corrected = sides
        all_optimism = [run.optimism for run in as_run.runs if run.optimism is not None] if as_run else []
        cells = [
            f"`{name}`",
            f"{experiment.published:.2f}",
            *_side(as_run),
            f"{100 * sum(all_optimism) / len(all_optimism):.2f}" if all_optimism else "-",
            explained(experiment, as_run),
            *_side(corrected),
            _correction(as_run, corrected),
            ", ".join(_minutes(side, known) if side else "-" for side in sides),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _side(result: Result | None) -> tuple[str, str]:
    return (percent(result.test), result.seeds) if result else (NOT_MEASURED_YET, "-")


def explained(experiment: Experiment, as_run: Result | None) -> str:
    """The figure as run less the published one, and whether the spread of seeds explains it.

    The published figure is one run without a seed: it is explained where it lies within the 95 % prediction
    interval (Student's) for one more run.
    """
    if as_run is None or experiment.published is None:
        return "-"
    found = as_run.test
    apart = 100 * found.mean - experiment.published
    if found.n == 1:
        return f"{apart:+.2f}: one seed cannot tell"
    reach = float(stats.t.ppf(0.975, found.n - 1)) * 100 * float(found.sd) * (1 + 1 / found.n) ** 0.5
    return f"{apart:+.2f}: {'within the spread of seeds' if abs(apart) <= reach else 'unexplained'}"


def _correction(as_run: Result | None, corrected: Result | None) -> str:
    if as_run is None or corrected is None:
        return "-"
    found = difference(*({run.seed: run.test for run in side.runs} for side in (corrected, as_run)))
    text = f"{100 * found.mean:+.2f}"
    return text if found.seeds == 1 else f"{text} [{100 * found.low:+.2f}, {100 * found.high:+.2f}]"


BLOCKS: dict[str, Callable[[Known, str], list[str]]] = {
    "recipes": recipe_table,
    "whole": whole_table,
    "reproduce": reproduce_table,
}


def chart_points(known: Known) -> list[dict[str, Any]]:
    """Points of the chart: results on CIFAR-100 whose minutes on two cores are known, quickest first."""
    points = []
    for result in known.shown.values():
        minutes = minutes_of(result, known.rates)
        config = Line(result.name, 0, result.recipe, result.overrides).config()
        rate = known.rates.get(result.recipe)
        cores = {run.cores for run in result.runs} if rate is None else {rate.cores}
        if minutes is None or cores != {CORES} or config.data.dataset.name != "cifar100":
            continue
        found = result.test
        ends = [found.low, found.high] if found.n > 1 else [found.mean, found.mean]
        points.append({
            "name": result.name, "minutes": round(minutes, 2), "seeds": result.seeds,
            "test": [round(100 * float(value), 3) for value in (found.mean, *ends)],
        })  # fmt: skip
    return sorted(points, key=lambda point: point["minutes"])


def digest(points: list[dict[str, Any]]) -> str:
    """What tells one chart's points from another's."""
    return hashlib.sha256(json.dumps(points, sort_keys=True).encode()).hexdigest()


def draw(points: list[dict[str, Any]], path: Path) -> None:
    """Draw test accuracy against minutes as PNG; the file's Description is the points' digest."""
    with mpl.rc_context(STYLE):
        chart = Figure(figsize=(8.5, 5), layout="constrained", dpi=140)
        axis = chart.subplots()
        for i, point in enumerate(points):
            mean, low, high = point["test"]
            axis.errorbar(
                point["minutes"], mean, yerr=[[mean - low], [high - mean]], fmt="o", capsize=3,
                color=COLORS[i % len(COLORS)],
            )  # fmt: skip
            axis.annotate(
                f"{point['name']}, {point['seeds']}", (point["minutes"], mean), (6, 4),
                textcoords="offset points", fontsize=8,
            )  # fmt: skip
        axis.set(
            xscale="log", xlabel="minutes on two CPU cores", ylabel="top-1 % on test",
            title="CIFAR-100: accuracy against minutes on two CPU cores",
        )  # fmt: skip
        minutes = [point["minutes"] for point in points] or [1]
        # Room for the names, which stand to the right of the points.
        first, last = min(minutes) / 1.5, max(minutes) * 2.5
        axis.set_xlim(first, last)
        axis.set_xticks([tick for tick in TICKS if first <= tick <= last])
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.margins(y=0.12)
        axis.grid(alpha=0.25, linewidth=0.6)
        path.parent.mkdir(parents=True, exist_ok=True)
        metadata = {"Description": digest(points)}
        write_atomically(path, lambda file: chart.savefig(file, format="png", metadata=metadata))


def is_drawn(points: list[dict[str, Any]], path: Path) -> bool:
    """Whether a chart shows these points."""
    if not path.exists():
        return False
    with Image.open(path) as image:
        return image.info.get("Description") == digest(points)


def pages(root: Path) -> list[Path]:
    """README.md and every page of docs/."""
    return [root / "README.md", *sorted((root / "docs").rglob("*.md"))]


def outdated(known: Known) -> dict[Path, str]:
    """Files whose text is not that of the results, each with the text that it should have."""
    wanted = {recipe.path: with_header(recipe, known) for recipe in known.recipes}
    for path in pages(known.root):
        wanted[path] = with_results(path.read_text(), known, path.relative_to(known.root).as_posix())
    return {path: text for path, text in wanted.items() if path.read_text() != text}


def main() -> None:
    options = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--check", action="store_true", help="write nothing; exit 1 where a file differs")
    given = options.parse_args()
    try:
        known = load()
        changed, points = outdated(known), chart_points(known)
    except ConfigError as error:
        sys.exit(f"error: {error}")
    chart = ROOT / "docs" / "results" / "whole.png"
    new_chart = not is_drawn(points, chart)
    for line in known.results.left_out:
        print(f"not shown: {line}")
    for path in [*changed, *([chart] if new_chart else [])]:
        print(f"{'differs' if given.check else 'written'}: {path.relative_to(ROOT)}")
    if given.check:
        sys.exit(1 if changed or new_chart else 0)
    for path, text in changed.items():
        write_atomically(path, lambda file, text=text: file.write(text.encode()))
    if new_chart:
        draw(points, chart)


if __name__ == "__main__":
    main()
