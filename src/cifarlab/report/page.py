"""`build`: one self-contained HTML page of all runs below a folder, its charts and tables beside it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import altair as alt
import vl_convert
from jinja2 import Environment, StrictUndefined

from cifarlab.checkpoint import write_atomically
from cifarlab.ledger import openings
from cifarlab.merging import differences
from cifarlab.recipes import checked, read
from cifarlab.registry import ConfigError
from cifarlab.report import charts, tables
from cifarlab.report.collect import Finished, Group, Skipped, collect

VEGA_LITE = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
# Kept out of each run's list of differences: where it ran, and which of the seeds it is.
PLACES = ("data.root", "imports", "train.device", "train.seed")


def build(folder: Path, out: Path, title: str | None = None) -> tuple[Path, list[Skipped]]:
    """Write `out`/report.html, charts as PNG and SVG, tables as Markdown, CSV and LaTeX.

    Returns the page's path, and the folders that were left out, each with the reason. Raises ConfigError
    where no run below `folder` can be read.
    """
    groups, skipped = collect(folder)
    if not groups:
        reasons = "; ".join(f"{each.folder}: {each.reason}" for each in skipped[:3])
        raise ConfigError(f"{folder}: none of its {len(skipped)} runs can be shown ({reasons})")
    drawn = {name: chart for name, chart in _charts(groups).items() if chart is not None}
    out.mkdir(parents=True, exist_ok=True)
    for name, (_, chart) in drawn.items():
        _save_pictures(out / name, chart)
    for suffix, text_of in (("md", tables.markdown), ("csv", tables.comma_separated), ("tex", tables.latex)):
        _write(out / f"table.{suffix}", text_of(groups))
    page = out / "report.html"
    heading = title or f"{folder.resolve().name}: {_count(groups)}"
    _write(page, _page(heading, groups, skipped, drawn, len(openings(folder))))
    return page, skipped


def _charts(groups: Sequence[Group]) -> dict[str, tuple[str, alt.LayerChart] | None]:
    """Each chart by the name of its files, with its heading; None where no run has what it shows."""
    validated = [group for group in groups if group.values("val_top1")]
    trained = [group for group in groups if all(run.log for run in group.runs)]  # A soup was not.
    both = [group for group in trained if group in validated]
    tested = [group for group in groups if any("test/top1" in row for row in group.runs[0].log)]

    def of(these: Sequence[Group], heading: str, chart: Callable[[Sequence[Group]], alt.LayerChart]) -> Any:
        return (heading, chart(these)) if these else None

    return {
        "pareto": of(validated, "Accuracy against minutes", charts.pareto),
        "validation": of(both, "Validation", lambda g: charts.curves(g, "val/top1", "top-1 % on validation")),
        "training": of(
            trained, "Training batches", lambda g: charts.curves(g, "train/top1", "top-1 % in training")
        ),
        "gap": of(both, "Gap between training and validation", charts.gaps),
        "test": of(
            tested,
            "Test, read every epoch",
            lambda g: charts.curves(g, "test/top1", "top-1 % on test: optimistic"),
        ),
        "steps": of(validated if len(validated) > 2 else [], "Step by step", charts.waterfall),
    }


def _page(
    title: str,
    groups: Sequence[Group],
    skipped: Sequence[Skipped],
    drawn: dict[str, tuple[str, alt.LayerChart]],
    opened: int,
) -> str:
    files = resources.files("cifarlab.report")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string((files / "page.html.j2").read_text(encoding="utf-8"))
    bundle: Any = vl_convert.javascript_bundle  # Its annotations ask for a snippet, and it does not.
    specs = {name: chart.to_dict() for name, (_, chart) in drawn.items()}
    return template.render(
        title=title,
        count=_count(groups),
        head=tables.HEAD,
        rows=tables.rows(groups),
        charts=[(name, heading) for name, (heading, _) in drawn.items()],
        specs=_script(specs),
        vega=bundle(vl_version=VEGA_LITE),
        groups=[(group, _changes(group.runs[0]), _surroundings(group.runs[0])) for group in groups],
        warnings=[(group.name, line) for group in groups for line in group.warnings],
        skipped=skipped,
        opened=opened,
        version=metadata.version("cifarlab"),
    )


def _script(value: Any) -> str:
    """JSON that is safe inside a script element: no name of a run may close it."""
    return json.dumps(value).replace("<", "\\u003c")


def _count(groups: Sequence[Group]) -> str:
    runs = sum(len(group.runs) for group in groups)
    return f"{runs} run{'s' * (runs != 1)} of {len(groups)} name{'s' * (len(groups) != 1)}"


def _changes(run: Finished) -> list[tuple[str, str, str]]:
    """What a run's configuration changes in the base of its recipe, or in the recipe if that has none."""
    try:
        recipe = read(run.summary["recipe"])
        plain = checked(read(recipe.base, recipe.path.parent).plain if recipe.base else recipe.plain).dump()
    except (ConfigError, KeyError):
        return []  # A recipe of the user's own that has moved.
    found = differences(plain, run.config)
    return [(key, _shown(old), _shown(new)) for key, (old, new) in found.items() if key not in PLACES]


def _shown(value: Any) -> str:
    return "nothing" if value is None else json.dumps(value)


def _surroundings(run: Finished) -> list[tuple[str, str]]:
    """Hardware, versions and date of a run."""
    env = run.env
    hardware, versions = env.get("hardware") or {}, env.get("versions") or {}
    rows = [("recipe", run.summary.get("recipe")), ("date", str(env.get("time") or "")[:10]),
            ("processor", hardware.get("processor")), ("cores", hardware.get("cores")),
            ("device", hardware.get("gpu")), ("precision", env.get("precision"))]  # fmt: skip
    return [(key, str(value)) for key, value in rows if value] + [
        (f"{k}", str(v)) for k, v in versions.items()
    ]


def _save_pictures(path: Path, chart: alt.LayerChart) -> None:
    spec = chart.properties(width=640).to_dict()
    svg = vl_convert.vegalite_to_svg(spec, vl_version=VEGA_LITE)
    _write(path.with_suffix(".svg"), svg)
    png = vl_convert.svg_to_png(svg, scale=2)
    write_atomically(path.with_suffix(".png"), lambda file: file.write(png))


def _write(path: Path, text: str) -> None:
    write_atomically(path, lambda file: file.write(text.encode()))
