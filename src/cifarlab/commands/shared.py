"""Shared parts of commands: the application, common arguments, tables."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from cifarlab.config.describe import Option
    from cifarlab.evaluation.score_records import Calibrated
    from cifarlab.experiments.records import Comparison, ComparisonRow
    from cifarlab.training.progress import TrainingProgress

app = typer.Typer(
    help="Train image classifiers on small data. Each recipe is one YAML file.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

RecipeName = Annotated[
    str, typer.Argument(help="A recipe's name (see `cifarlab list`), or a path to a YAML file.")
]


def _each_once(overrides: list[str] | None) -> list[str] | None:
    """Return the overrides of a command line; raise ConfigError if two set the same key."""
    from cifarlab.config.merge import refuse_twice

    refuse_twice(overrides or ())
    return overrides


Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="Overrides of the recipe's options, e.g. optim.lr=3e-4.", callback=_each_once),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ImageSize = Annotated[
    int | None, typer.Option(min=8, help="Side of the model's input in pixels; default: the run's.")
]
Device = Annotated[str, typer.Option(help="Where to compute: auto, cpu, cuda, cuda:1.")]
Root = Annotated[str | None, typer.Option(help="The data set's folder; default: as the run recorded it.")]
Tta = Annotated[
    str | None,
    typer.Option(help="Test-time augmentation: flip, multi_crop or sizes; with options: {name: flip, ...}."),
]
Scored = Annotated[
    Literal["val", "test"], typer.Option(help="The pictures to score; test opens the sealed test set.")
]
# The names of `tta.MEANS`.
MeanName = Literal["logits", "probabilities"]
# On a CPU, runs one after another, with all cores each, are as fast (docs/benchmarks.md). On a GPU, a run of
# another recipe may need more memory than the first run.
AT_ONCE = 1
AtOnce = Annotated[
    int,
    typer.Option(min=1, help="Number of runs to train at the same time, each in a process of its own."),
]
Imports = Annotated[
    list[str] | None,
    typer.Option(help="A Python file or module that registers custom parts of a run; repeat for more."),
]
RunFolder = Annotated[Path, typer.Argument(help="A run's folder: runs/<name>/<seed>.")]
RunsFolder = Annotated[Path, typer.Option(help="The folder of all runs.")]


@app.callback()
def _every_command(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error. Works in any position.")
    ] = False,
) -> None:
    """Train image classifiers on small data. Each recipe is one YAML file."""
    # The docstring is the help text of `cifarlab`. `cifarlab.cli` reads the option.


def refuse_place(path: Path, option: str) -> None:
    """Raise ConfigError if no folder can be created or written at `path`.

    It is called before long work whose result will lie there. The message names the option.
    """
    import os

    from cifarlab.core.errors import ConfigError

    there = next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())
    if not there.is_dir():
        raise ConfigError(f"{option}: {there} is a file; name a folder, or a place where one can be created")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(f"{option}: {there} cannot be written; make it writable, or name another place")


def calibration_line(scores: Calibrated) -> str:
    """Format calibration error and NLL, without and with the fitted temperature."""
    line = f"  calibration error {scores.ece:.2%}, NLL {scores.nll:.3f}"
    if scores.temperature is None:
        return f"{line}; no temperature: no validation pictures"
    return (
        f"{line}; at temperature {scores.temperature:.3g} (fitted on val) "
        f"{scores.ece_calibrated:.2%}, {scores.nll_calibrated:.3f}"
    )


def training_progress(as_json: bool) -> TrainingProgress:
    """Return a progress display, on stderr if the command prints JSON."""
    from rich.console import Console

    from cifarlab.training.progress import TrainingProgress

    return TrainingProgress(Console(stderr=True, highlight=False, emoji=False) if as_json else None)


def print_options(options: dict[str, Option]) -> None:
    """Print options with their types, defaults and meanings, wrapped to the terminal."""
    import json
    import shutil
    import textwrap

    width = max(60, shutil.get_terminal_size().columns) if sys.stdout.isatty() else 10_000
    for name, option in options.items():
        default = "required" if option.is_required else f"default {json.dumps(option.default)}"
        print(f"  {name}: {option.type}, {default}")
        print(textwrap.indent(textwrap.fill(option.doc, width - 6), " " * 6))


def print_table(
    head: tuple[str, ...], rows: list[tuple[str, ...]], *, numbers: tuple[str, ...] = ("published",)
) -> None:
    """Print a table, or one paragraph for each row if the terminal is too narrow.

    Args:
        head: Headings of the columns.
        rows: Cells of each row.
        numbers: Headings of the columns that are aligned right.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(emoji=False)
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    if console.is_terminal and console.width < sum(widths) + 3 * len(head):
        for name, *cells in rows:
            console.print(name, style="bold", markup=False)
            for word, cell in zip(head[1:], cells, strict=True):
                if cell:
                    console.print(f"  {word}: {cell}", markup=False, highlight=False)
        return
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for i, word in enumerate(head):
        table.add_column(word, justify="right" if word in numbers else "left", no_wrap=i == 0)
    for row in rows:
        # As Text, because a run's name may contain characters of rich's markup.
        table.add_row(*map(Text, row))
    (console if console.is_terminal else Console(width=240)).print(table)


RunFolders = Annotated[list[Path], typer.Argument(help="Two or more folders of runs: runs/<name>/<seed>.")]


def print_warnings(lines: Iterable[str]) -> None:
    """Print each line to stderr as a warning."""
    for line in lines:
        print(f"warning: {line}", file=sys.stderr)


Seeds = Annotated[int | None, typer.Option(min=1, help="Use seeds 0 to N-1; missing runs are trained first.")]


MetricOption = Annotated[
    Literal["val", "test"],
    typer.Option(help="Accuracy to compare; test opens the sealed test set, which is counted."),
]


def print_comparison(found: Comparison) -> None:
    """Print a comparison: its table, verdicts and notes."""
    print_rows(found.arms, found.metric)
    for row in found.arms:
        if apart := row.difference:
            print(f"{row.name}: {apart.verdict}" + (f" than {apart.against}" if apart.shown else ""))
    for note in found.notes:
        print(f"note: {note}")
    print(
        "Mean ± standard deviation over seeds. Differences in points, p after Holm's correction. Optimism: "
        "estimated gain, in points, from choosing the best epoch."
    )
    print(f"The test set has been opened {found.test_opened:,} x for the runs in this folder.")


def print_rows(rows: Sequence[ComparisonRow], metric: str) -> None:
    """Print rows of a comparison as a table. `metric`: val or test."""
    head = ("", "seeds", f"{metric} top-1 %", "95 % interval", "difference", "95 % interval", "p", "optimism",
            "minutes")  # fmt: skip
    print_table(head, [comparison_cells(row) for row in rows], numbers=head[1:])


def comparison_cells(row: ComparisonRow) -> tuple[str, ...]:
    """Format one row of a comparison as the cells that `print_rows` prints."""
    from cifarlab.experiments.wording import interval, p_value

    spread = "" if row.sd is None else f" ± {100 * row.sd:.2f}"
    apart = ("", "", "")
    if difference := row.difference:
        shown = interval(difference, "+.2f")
        apart = (f"{100 * difference.mean:+.2f}", shown, p_value(difference.p_holm))
    optimism = "-" if row.optimism is None else f"{100 * row.optimism:.2f}"
    scores = f"{100 * row.mean:.2f}{spread}", interval(row, ".2f")
    return (row.name, str(row.n), *scores, *apart, optimism, f"{row.minutes:.1f}")
