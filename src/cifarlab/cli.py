"""The command line: parse, call, print. torch is imported inside commands, so that `--help` is instant."""

from __future__ import annotations

import io
import json
import sys
import traceback
from pathlib import Path
from typing import Annotated, Any

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
Overrides = Annotated[list[str] | None, typer.Argument(help="key=value, laid over the recipe: optim.lr=3e-4")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ImageSize = Annotated[
    int | None, typer.Option(min=8, help="Pixels a side that the model sees, if not the run's own.")
]
RunFolder = Annotated[Path, typer.Argument(help="A run's folder: runs/<name>/<seed>.")]


@app.callback()
def _every_command(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error. Works in any place.")
    ] = False,
) -> None:
    """Train image classifiers on small data: every recipe one YAML file, every result one you can trust."""


@app.command()
def train(
    recipe: RecipeName,
    overrides: Overrides = None,
    name: Annotated[str | None, typer.Option(help="The runs' name; default: the recipe's.")] = None,
    runs: Annotated[Path, typer.Option(help="The folder of all runs.")] = Path("runs"),
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Train seeds 0 to N-1, one after the other.")
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start over: remove what the run's folder holds.")
    ] = False,
    train_teacher: Annotated[
        bool, typer.Option("--train-teacher", help="Train the teacher first, if it is not there.")
    ] = False,
) -> None:
    """Train a recipe, or go on where it was left; a finished run says so."""
    from cifarlab.progress import TrainingProgress
    from cifarlab.recipes import read, resolve
    from cifarlab.registry import ConfigError
    from cifarlab.run import Run
    from cifarlab.teaching import train_teachers
    from cifarlab.train import train as train_run

    found = read(recipe)
    folder = runs / _run_name(found.name if name is None else name)
    configs = [resolve(found, overrides or ())]
    if seeds is not None:
        if configs[0].train.seed != resolve(found).train.seed:
            seed = configs[0].train.seed
            raise ConfigError(
                f"--seeds {seeds} and train.seed={seed} contradict each other; give one of them"
            )
        configs = [resolve(found, [*(overrides or ()), f"train.seed={seed}"]) for seed in range(seeds)]
    progress = TrainingProgress()
    students = [Run(folder / str(config.train.seed), found.name, name or found.name) for config in configs]
    if train_teacher:
        train_teachers(list(zip(configs, students, strict=True)), runs, progress, fresh)
    summaries = []
    for config, run in zip(configs, students, strict=True):
        if len(configs) > 1:
            progress.note(f"seed {config.train.seed} of 0 to {len(configs) - 1}")
        summaries.append(train_run(config, run, progress, fresh))
    if len(summaries) > 1:
        _print_over_seeds(folder, summaries)


def _run_name(name: str) -> Path:
    from cifarlab.registry import ConfigError

    path = Path(name)
    if not path.parts or path.is_absolute() or ".." in path.parts:
        raise ConfigError(f"--name {name!r}: a name, not a path; --runs says where all runs lie")
    if not name.isprintable() or max(map(len, path.parts)) > 200:
        raise ConfigError(f"--name {name[:40]!r}: too long, or not printable")
    return path


def _print_over_seeds(folder: Path, summaries: list[dict[str, Any]]) -> None:
    from statistics import mean, stdev

    for key in ("val_top1", "test_top1"):
        values = [summary[key] for summary in summaries if summary[key] is not None]
        if len(values) == len(summaries):
            optimistic = (
                " (chosen on test: optimistic)"
                if summaries[0]["chosen_on"] == key.partition("_")[0] == "test"
                else ""
            )
            spread = f"standard deviation {100 * stdev(values):.2f} points over {len(values)} seeds"
            print(f"{folder}: {key.replace('_', ' ')} {mean(values):.2%} mean, {spread}{optimistic}")


@app.command(name="list")
def list_recipes(as_json: AsJson = False) -> None:
    """Every recipe: what it is, published and measured accuracy."""
    from cifarlab.recipes import every

    found = every()
    if as_json:
        rows = [
            {"name": r.name, "what": r.what, "base": r.base, "published": r.published, "measured": r.measured}
            for r in found
        ]
        print(json.dumps(rows, indent=2))
        return
    rows = [(r.name, r.what, "-" if r.published is None else f"{r.published:.2f}", r.measured) for r in found]
    _print_table(("recipe", "what it is", "published", "measured"), rows)
    print(
        "Published and measured: top-1 %, on test unless said otherwise. +: what a recipe adds to its base."
    )


@app.command()
def show(
    recipe: RecipeName,
    overrides: Overrides = None,
    diff: Annotated[bool, typer.Option("--diff", help="Only what differs from the recipe's base.")] = False,
    as_json: AsJson = False,
) -> None:
    """The resolved recipe: every option of the run, defaults filled in."""
    import yaml

    from cifarlab.merging import differences
    from cifarlab.recipes import checked, read, resolve

    found = read(recipe)
    plain = resolve(found, overrides or ()).dump()
    if not diff:
        print(
            json.dumps(plain, indent=2) if as_json else yaml.safe_dump(plain, sort_keys=False),
            end="\n" if as_json else "",
        )
        return
    base = checked(read(found.base, found.path.parent).plain).dump() if found.base else {}
    changed = differences(base, plain)
    if as_json:
        rows = {key: {"base": old, "recipe": new} for key, (old, new) in changed.items()}
        print(json.dumps({"recipe": found.name, "base": found.base, "changes": rows}, indent=2))
        return
    print(f"{found.name} differs from {found.base or 'nothing: it has no base'} in:")
    for key, (old, new) in changed.items():
        print(f"  {key}: {_shown(old)} -> {_shown(new)}" if found.base else f"  {key}: {_shown(new)}")


def _shown(value: Any) -> str:
    return "nothing" if value is None else json.dumps(value)


@app.command()
def parts(
    kind: Annotated[
        str | None, typer.Argument(help="Only one kind, by its key in a recipe: objective, data.augment")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Every registered part: its options, their defaults, one line of doc."""
    from cifarlab.listing import describe
    from cifarlab.recipes import import_builtin_parts
    from cifarlab.registry import REGISTRIES, ConfigError, unknown

    import_builtin_parts()
    if kind is not None and kind not in REGISTRIES:
        raise ConfigError(f"{kind}: {unknown(kind, REGISTRIES)}")
    listing = {
        key: [describe(part) for part in registry.parts()]
        for key, registry in REGISTRIES.items()
        if kind in (None, key)
    }
    if as_json:
        print(json.dumps(listing, indent=2))
        return
    for key, members in listing.items():
        beside = REGISTRIES[key].beside
        print(key + (f" (each also takes {', '.join(beside)})" if beside else ""))
        for part in members:
            print(f"  {part['name']}: {part['doc']}")
            for option, about in part["options"].items():
                default = f"default {json.dumps(about['default'])}" if "default" in about else "required"
                print(f"      {option}: {about['type']}, {default}")


@app.command(name="eval")
def evaluate(
    run: RunFolder,
    split: Annotated[str, typer.Option(help="train, val or test.")] = "val",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")] = "auto",
    root: Annotated[
        str | None, typer.Option(help="Where the data set lies, if not where the run found it.")
    ] = None,
    image_size: ImageSize = None,
    as_json: AsJson = False,
) -> None:
    """Score a run's chosen model on a split; the test score goes into the run's summary."""
    from cifarlab.registry import ConfigError, unknown
    from cifarlab.runs import evaluate_run

    if split not in ("train", "val", "test"):
        raise ConfigError(f"--split {split}: {unknown(split, ('train', 'val', 'test'))}")
    scores = evaluate_run(run, split, device, root, image_size)
    if as_json:
        print(json.dumps(scores, indent=2))
        return
    for line in scores["warnings"]:
        print(f"warning: {line}", file=sys.stderr)
    print(
        f"{run} on {split}: top-1 {scores['top1']:.2%}, top-5 {scores['top5']:.2%}, "
        f"loss {scores['loss']:.3f} ({scores['pictures']:,} pictures){scores['remark']}"
    )
    if split == "test" and not scores["written"]:
        print("not written to a summary: the run is not finished")


@app.command()
def predict(
    run: RunFolder,
    pictures: Annotated[list[Path], typer.Argument(help="Picture files, and folders of them.")],
    top: Annotated[int, typer.Option(min=1, help="How many classes a picture.")] = 5,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1.")] = "auto",
    image_size: ImageSize = None,
    as_json: AsJson = False,
) -> None:
    """The most probable classes of each picture."""
    from cifarlab.runs import predict as predict_pictures

    answers = predict_pictures(run, pictures, top, device, image_size)
    if as_json:
        print(json.dumps(answers, indent=2))
        return
    for answer in answers:
        ranked = zip(answer["classes"], answer["probabilities"], strict=True)
        print(f"{answer['picture']}: " + ", ".join(f"{name} {value:.1%}" for name, value in ranked))


@app.command()
def plot(
    runs: Annotated[list[Path], typer.Argument(help="Runs' folders; the first one's predictions are shown.")],
    out: Annotated[
        Path | None, typer.Option(help="The picture to write (.png or .svg); default: <first run>/plot.png.")
    ] = None,
    title: Annotated[str | None, typer.Option(help="The picture's heading.")] = None,
    gallery: Annotated[
        bool, typer.Option(help="Add a grid of validation pictures with the first run's predictions.")
    ] = True,
) -> None:
    """Curves of runs, and what the first one makes of pictures it has not trained on."""
    from cifarlab.report.plot import plot_runs

    path = plot_runs(runs, out or runs[0] / "plot.png", title, gallery)
    print(path.resolve())


def _print_table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> None:
    """Columns where they fit, or where the output is no terminal; else a paragraph a row."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    console = Console()
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    if console.is_terminal and console.width < sum(widths) + 3 * len(head):
        for name, what, published, measured in rows:
            console.print(name, style="bold", markup=False)
            console.print(
                f"  {what}\n  published {published}, measured: {measured}", markup=False, highlight=False
            )
        return
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for i, word in enumerate(head):
        table.add_column(word, justify="right" if word == "published" else "left", no_wrap=i == 0)
    for row in rows:
        table.add_row(*row)
    (console if console.is_terminal else Console(width=240)).print(table)


def main() -> None:
    """Run the command line; a user's mistake ends with status 2, a failure with 1, both in one line."""
    if sys.platform == "win32":
        sys.exit("error: cifarlab does not run on Windows itself yet; it does in WSL")
    for stream in (sys.stdout, sys.stderr):
        # A name that the terminal's encoding lacks is no reason to fail.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    try:
        app(args=arguments, standalone_mode=True)
    except Exception as error:
        from cifarlab.registry import ConfigError, Failure
        from cifarlab.run import Interrupted

        if debug:
            traceback.print_exc()
        if isinstance(error, Interrupted):
            print(f"\n{error}", file=sys.stderr)
            sys.exit(error.status)
        if isinstance(error, ConfigError | Failure):
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
            sys.exit(2 if isinstance(error, ConfigError) else 1)
        hint = "" if debug else " (the same command with --debug shows where)"
        message = " ".join(str(error).split())
        print(f"error: {type(error).__name__}: {message}{hint}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
