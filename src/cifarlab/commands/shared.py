"""What commands share: the application, arguments that several take, tables."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

app = typer.Typer(
    help="Train image classifiers on small data: every recipe one YAML file, every result one you can trust.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

RecipeName = Annotated[
    str, typer.Argument(help="A recipe's name (see `cifarlab list`), or a path to a YAML file.")
]


def _each_once(overrides: list[str] | None) -> list[str] | None:
    """The overrides of a command line. Raises ConfigError where two set the same key."""
    from cifarlab.merging import refuse_twice

    refuse_twice(overrides or ())
    return overrides


Overrides = Annotated[
    list[str] | None,
    typer.Argument(help="key=value, laid over the recipe: optim.lr=3e-4", callback=_each_once),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ImageSize = Annotated[
    int | None, typer.Option(min=8, help="Pixels a side that the model sees, if not the run's own.")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")]
Root = Annotated[str | None, typer.Option(help="Where the data set lies, if not where the run found it.")]
Tta = Annotated[
    str | None,
    typer.Option(
        help="Test-time augmentation: flip, multi_crop, sizes; with options: {name: multi_crop, pixels: 2}."
    ),
]
Scored = Annotated[Literal["val", "test"], typer.Option(help="Which pictures; test opens the sealed ones.")]
# As `tta.MEANS` calls them.
MeanName = Literal["logits", "probabilities"]
# On a CPU runs in turn, with all cores each, are as fast (docs/benchmarks.md). On a GPU, unlike seeds of one
# recipe, what is compared may take more memory than the first of them.
AT_ONCE = 1
AtOnce = Annotated[
    int,
    typer.Option(
        min=1, help="Train so many runs at the same time, each in a process with its share of the cores."
    ),
]
RunFolder = Annotated[Path, typer.Argument(help="A run's folder: runs/<name>/<seed>.")]
RunsFolder = Annotated[Path, typer.Option(help="The folder of all runs.")]


@app.callback()
def _every_command(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error. Works in any place.")
    ] = False,
) -> None:
    """Train image classifiers on small data: every recipe one YAML file, every result one you can trust."""


def run_name(name: str) -> Path:
    """What --name gives, as a path below the folder of all runs. Raises ConfigError for what is no name."""
    from cifarlab.registry import ConfigError

    path = Path(name)
    if not path.parts or path.is_absolute() or ".." in path.parts:
        raise ConfigError(f"--name {name!r}: a name, not a path; --runs says where all runs lie")
    if not name.isprintable() or max(map(len, path.parts)) > 200:
        raise ConfigError(f"--name {name[:40]!r}: too long, or not printable")
    return path


def refuse_place(path: Path, option: str) -> None:
    """Raise ConfigError where no folder can be at `path`: before the work whose result belongs there."""
    import os

    from cifarlab.registry import ConfigError

    there = next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())
    if not there.is_dir():
        raise ConfigError(f"{option}: {there} is a file; name a folder, or a place where one can be made")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(f"{option}: {there} cannot be written; make it so, or name another place")


def refuse_idle_at_once(at_once: int, seeds: int | None) -> None:
    """Raise ConfigError where there are no seeds to be trained at the same time."""
    from cifarlab.registry import ConfigError

    if at_once > 1 and seeds is None:
        raise ConfigError(f"--at-once {at_once}: of how many runs? Say, e.g., --seeds {at_once}")


def refuse_idle_mean(mean: str | None, tta: str | None) -> None:
    """Raise ConfigError where there are no views to take the mean of."""
    from cifarlab.registry import ConfigError

    if mean is not None and tta is None:
        raise ConfigError(f"--mean {mean}: of which views? Say, e.g., --tta flip")


def calibration_line(scores: dict[str, Any]) -> str:
    """How well what was scored knows itself, as it is and at the temperature fitted on validation."""
    line = f"  calibration error {scores['ece']:.2%}, NLL {scores['nll']:.3f}"
    if scores["temperature"] is None:
        return f"{line}; no temperature, for want of validation pictures"
    return (
        f"{line}; at temperature {scores['temperature']:.3g} (fitted on val) "
        f"{scores['ece_calibrated']:.2%}, {scores['nll_calibrated']:.3f}"
    )


def training_progress(as_json: bool) -> Any:
    """Where JSON is the output, what else there is to say goes to stderr."""
    from rich.console import Console

    from cifarlab.progress import TrainingProgress

    return TrainingProgress(Console(stderr=True, highlight=False, emoji=False) if as_json else None)


def print_table(
    head: tuple[str, ...], rows: list[tuple[str, ...]], numbers: tuple[str, ...] = ("published",)
) -> None:
    """Columns where they fit, or where the output is no terminal; else a paragraph a row.

    numbers: the columns that are set to the right.
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
        # As it is: a run's name may hold what would be markup.
        table.add_row(*map(Text, row))
    (console if console.is_terminal else Console(width=240)).print(table)
