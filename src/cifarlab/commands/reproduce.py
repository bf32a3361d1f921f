"""`cifarlab reproduce`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cifarlab.commands.shared import (
    AT_ONCE,
    AsJson,
    AtOnce,
    Overrides,
    RunsFolder,
    app,
    print_table,
    refuse_place,
    training_progress,
)

if TYPE_CHECKING:
    from cifarlab.experiments.records import Lesson, ReproducedRow, ReproducedSide, Reproduction


@app.command()
def reproduce(
    overrides: Overrides = None,
    seeds: Annotated[int, typer.Option(min=1, help="Use seeds 0 to N-1; missing runs are trained.")] = 3,
    budget: Annotated[
        Literal["short", "whole"] | None,
        typer.Option(
            help="short: 20 epochs of 10,000 pictures, none above 64 px; whole: as published. "
            "Default: whole on a GPU, short without one."
        ),
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Only this experiment, by its recipe's name; repeat for more.")
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option(help="A run whose weights replace ImageNet's."),
    ] = None,
    page: Annotated[Path | None, typer.Option(help="Also write a page (.md) and its chart (.png).")] = None,
    at_once: AtOnce = AT_ONCE,
    runs: RunsFolder = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """Repeat the experiments of the published tutorial.

    This is DocsaidLab's CIFAR-100 tutorial. Each experiment is trained as the published code does it, and
    again without that code's defects. Also shows how much each experiment gains over the one that it builds
    on.
    """
    from cifarlab.core.device import pick_device
    from cifarlab.core.errors import ConfigError
    from cifarlab.experiments.reproduce import reproduce as reproduce_table

    if page is not None and page.suffix != ".md":
        raise ConfigError(f"--page {page}: a Markdown page; use the suffix .md")
    if page is not None:
        refuse_place(page.parent, "--page")
    chosen = budget or ("short" if pick_device("auto").type == "cpu" else "whole")
    found = reproduce_table(
        runs, seeds, chosen, overrides or [], only or [], start, training_progress(as_json), at_once
    )
    if page is not None:
        from cifarlab.report.reproduction import write_page

        write_page(found, page)
    if as_json:
        print(json.dumps(found.to_json(), indent=2))
        return
    _print(found)
    if page is not None:
        print(page.resolve())


def _print(found: Reproduction) -> None:
    head = ("", "published", "as run", "95 % interval", "corrected", "95 % interval", "difference", "p",
            "optimism", "minutes")  # fmt: skip
    print_table(head, [_cells(row) for row in found.rows], numbers=head[1:])
    for row in found.rows:
        for side, reason in list(row.missing.items())[:1]:
            which = "" if len(row.missing) > 1 else f", {side.replace('_', ' ')}"
            print(f"{row.name}{which}: not measured: {reason}")
    if found.lessons:
        print("\nThe lessons: each experiment minus the one that it builds on, in points")
        head = ("", "from", "published", "as run", "95 % interval", "corrected", "95 % interval")
        print_table(head, [_lesson_cells(lesson) for lesson in found.lessons], numbers=head[2:])
    print(
        f"{found.epochs} epochs. Test top-1 %, mean ± standard deviation over seeds. As run: the best of "
        "all epochs on test, as published; optimism: the estimated gain from that choice, in points. "
        "Corrected: the epoch that validation chose. p after Holm's correction; *: significant after it."
    )


def _cells(row: ReproducedRow) -> tuple[str, ...]:
    from cifarlab.experiments.wording import p_value

    published = "-" if row.published is None else f"{100 * row.published:.2f}"
    sides = [cell for side in row.sides.values() for cell in _side_cells(side)]
    known = [side for side in row.sides.values() if side is not None]
    minutes = "-" if not known else f"{sum(side.minutes for side in known) / len(known):.1f}"
    optimism = row.as_run.optimism if row.as_run else None
    apart = ("-", "-")
    if difference := row.difference:
        apart = (f"{100 * difference.mean:+.2f}", p_value(difference.p_holm))
    return (
        row.name,
        published,
        *sides,
        *apart,
        "-" if optimism is None else f"{100 * optimism:.2f}",
        minutes,
    )


def _side_cells(side: ReproducedSide | None) -> tuple[str, str]:
    from cifarlab.experiments.wording import interval

    if side is None:
        return "not measured", "-"
    spread = "" if side.sd is None else f" ± {100 * side.sd:.2f}"
    return f"{100 * side.mean:.2f}{spread}", interval(side, ".2f")


def _lesson_cells(lesson: Lesson) -> tuple[str, ...]:
    from cifarlab.experiments.wording import interval

    published = "-" if lesson.published is None else f"{100 * lesson.published:+.2f}"
    cells = []
    for apart in lesson.sides.values():
        if apart is None:
            cells += ["not measured", "-"]
        else:
            cells += [f"{100 * apart.mean:+.2f}{' *' if apart.shown else ''}", interval(apart, "+.2f")]
    return (lesson.name, lesson.builds_on, published, *cells)
