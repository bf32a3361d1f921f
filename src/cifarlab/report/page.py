"""The report: a self-contained HTML page of runs, with charts and tables."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from cifarlab.config.imports import import_named
from cifarlab.core.errors import ConfigError
from cifarlab.core.files import write_atomically
from cifarlab.report import analysis_charts, charts, tables
from cifarlab.report.chart_libraries import altair as alt
from cifarlab.report.chart_libraries import vl_convert
from cifarlab.report.collect import RunGroup, Skipped, collect_runs
from cifarlab.report.differences import AgainstOne, compare_names, ladders, steps
from cifarlab.report.provenance import changes, surroundings
from cifarlab.report.sections import PageSection, sections
from cifarlab.report.specs import ChartSpec
from cifarlab.runs.folder import recorded_run
from cifarlab.runs.ledger import openings

VEGA_LITE = ".".join(alt.SCHEMA_VERSION.removeprefix("v").split(".")[:2])
# Charts of analyses that are saved as files. Each takes 0.1 s, and there may be many names.
SAVED = {"confusion", "calibration"}
FORMATS = {"md": tables.markdown, "csv": tables.comma_separated, "tex": tables.latex}


@dataclass(frozen=True)
class Contents:
    """The content of the page.

    Attributes:
        groups: The runs of each name.
        skipped: The folders and files that cannot be read.
        charts: Heading and specification of each chart, by file name without suffix.
        compared: Differences of all names from one. None if fewer than two names have a score.
        analyzed: One section for each analyzed name.
        kinds: By kind of chart in an analysis, the Vega-Lite specification without data.
        opened: How often the test set was used, by these runs and all others in the same folders of runs.
    """

    groups: list[RunGroup]
    skipped: list[Skipped]
    charts: dict[str, tuple[str, ChartSpec]]
    compared: AgainstOne | None
    analyzed: list[PageSection]
    kinds: dict[str, ChartSpec]
    opened: int

    def tables(self) -> dict[str, tables.Table]:
        """Return the tables by file name without suffix."""
        found = {"table": tables.name_groups(self.groups)}
        if self.compared is not None:
            found["differences"] = self.compared.table()
        if self.analyzed:
            found["analyzed"] = tables.analyzed(self.groups)
        return found


def build_page(
    folder: Path,
    out: Path,
    *,
    title: str | None = None,
    against: str | None = None,
    imports: Sequence[Path | str] = (),
) -> tuple[Path, list[Skipped]]:
    """Write a page of all runs below a folder.

    The page is `out`/report.html. Its charts are also written as PNG and SVG files, its
    tables as Markdown, CSV and LaTeX files.

    Args:
        folder: Folder of the runs.
        out: Folder of the page.
        title: Title of the page.
        against: The name that the others are compared with. Default: the first with a score.
        imports: Python files or modules that register the runs' custom parts. Without them, a run
            that has custom parts cannot be compared with its recipe.

    Returns:
        Path of the page, and the runs that were skipped with the reasons.

    Raises:
        ConfigError: No run below `folder` can be read, or `against` is none of the names.
    """
    import_named(imports)
    contents = _contents(folder, against)
    out.mkdir(parents=True, exist_ok=True)
    for name, (_, spec) in contents.charts.items():
        _save_pictures(out / name, {**spec, "width": 640})
    for section in contents.analyzed:
        for kind in SAVED & section.charts.keys():
            path = out / "analyzed" / section.name / kind
            _save_pictures(path, {**contents.kinds[kind], "width": 480, **section.charts[kind]})
    for name, table in contents.tables().items():
        for suffix, text_of in FORMATS.items():
            _write(out / f"{name}.{suffix}", text_of(table))
    page = out / "report.html"
    _write(page, _page(title or f"{folder.resolve().name}: {_count(contents.groups)}", contents))
    return page, contents.skipped


def _contents(folder: Path, against: str | None) -> Contents:
    groups, skipped = collect_runs(folder)
    if not groups:
        reasons = "; ".join(f"{each.path}: {each.reason}" for each in skipped[:3])
        raise ConfigError(f"{folder}: none of its {len(skipped)} runs can be read ({reasons})")
    # Ledgers lie in the folders of all runs, which may be above `folder`.
    beside = {recorded_run(run.folder).runs.resolve() for group in groups for run in group.runs}
    return Contents(
        groups=groups,
        skipped=skipped,
        charts=_charts(groups),
        compared=compare_names(groups, against=against),
        analyzed=sections(groups),
        kinds=analysis_charts.specifications(),
        opened=sum(len(openings(runs)) for runs in {folder.resolve(), *beside}),
    )


def _charts(groups: Sequence[RunGroup]) -> dict[str, tuple[str, ChartSpec]]:
    """Return heading and specification of each chart with data, by file name."""
    validated = [group for group in groups if group.values("val_top1")]
    trained = [group for group in groups if all(run.log for run in group.runs)]  # A soup has no log.
    both = [group for group in trained if group in validated]
    tested = [group for group in groups if any("test/top1" in row for row in group.runs[0].log)]

    def of(
        these: Sequence[RunGroup], heading: str, chart: Callable[[Sequence[RunGroup]], alt.LayerChart]
    ) -> Any:
        return (heading, chart(these)) if these else None

    found = {
        "pareto": of(validated, "Accuracy against minutes", charts.pareto),
        "validation": of(both, "Validation", lambda g: charts.curves(g, "val/top1", "top-1 % on validation")),
        "training": of(
            trained, "Training batches", lambda g: charts.curves(g, "train/top1", "top-1 % in training")
        ),
        "gap": of(both, "Gap between training and validation", charts.gaps),
        "test": of(
            tested,
            "Test, scored every epoch",
            lambda g: charts.curves(g, "test/top1", "top-1 % on test: optimistic"),
        ),
    }
    for i, (folder, rungs) in enumerate(ladders(groups).items(), start=1):
        heading = "Step by step" if folder == "." else f"Step by step: {folder}"
        found["steps" if i == 1 else f"steps_{i}"] = heading, charts.waterfall(rungs, steps(rungs))
    return {name: (each[0], each[1].to_dict()) for name, each in found.items() if each is not None}


def _page(title: str, contents: Contents) -> str:
    environment = Environment(
        loader=PackageLoader("cifarlab.report", ""),
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["breakable"] = _breakable
    bundle: Any = vl_convert.javascript_bundle  # Its annotations require a snippet, which is optional.
    data = {
        "charts": {name: spec for name, (_, spec) in contents.charts.items()},
        "kinds": contents.kinds,
        "analyzed": [section.charts for section in contents.analyzed],
    }
    groups = contents.groups
    return environment.get_template("page.html.j2").render(
        title=title,
        tables=contents.tables(),
        charts=[(name, heading) for name, (heading, _) in contents.charts.items()],
        compared=contents.compared,
        analyzed=contents.analyzed,
        headings={kind: heading for kind, (heading, _, _) in analysis_charts.ANALYSIS_CHARTS.items()},
        data=_script(data),
        vega=bundle(vl_version=VEGA_LITE),
        groups=[(group, changes(group.runs[0]), surroundings(group.runs[0])) for group in groups],
        warnings=[(group.name, line) for group in groups for line in group.warnings],
        skipped=contents.skipped,
        opened=contents.opened,
        version=metadata.version("cifarlab"),
    )


def _breakable(name: str) -> Markup:
    """Allow line breaks after / and _ in a long name."""
    return Markup(re.sub(r"([/_])", r"\1<wbr>", str(escape(name))))


def _script(value: Any) -> str:
    """Write JSON that cannot close the script element around it."""
    return json.dumps(value, separators=(",", ":")).replace("<", "\\u003c")


def _count(groups: Sequence[RunGroup]) -> str:
    runs = sum(len(group.runs) for group in groups)
    return f"{runs} run{'s' * (runs != 1)} of {len(groups)} name{'s' * (len(groups) != 1)}"


def _save_pictures(path: Path, spec: ChartSpec) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    own = spec.get("config")
    config = {**(own if isinstance(own, dict) else {}), "legend": {"columns": 2}}
    svg = vl_convert.vegalite_to_svg({**charts.still(spec), "config": config}, vl_version=VEGA_LITE)
    _write(path.with_suffix(".svg"), svg)
    png = vl_convert.svg_to_png(svg, scale=2)
    write_atomically(path.with_suffix(".png"), lambda file: file.write(png))


def _write(path: Path, text: str) -> None:
    write_atomically(path, lambda file: file.write(text.encode()))
