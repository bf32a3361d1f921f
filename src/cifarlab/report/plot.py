"""Learning curves of runs, with a grid of a model's predictions."""

from __future__ import annotations

import contextlib
import io
import itertools
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from cifarlab.config.imports import import_named
from cifarlab.core.device import pick_precision
from cifarlab.core.errors import ConfigError
from cifarlab.core.files import write_atomically
from cifarlab.engine.scoring import logits_of
from cifarlab.evaluation.sealed import read_splits
from cifarlab.runs.folder import Run
from cifarlab.runs.log import is_epoch, read_log
from cifarlab.runs.model import load_trained
from cifarlab.training.progress import OPTIMISTIC

# Okabe and Ito's palette, which is also distinct for readers with red-green colour blindness.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
STYLE: Any = {
    "text.parse_math": False,
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
}
GRID_COLUMNS, GRID_ROWS = 8, 3


def plot_runs(
    folders: Sequence[Path | str],
    out: Path,
    *,
    title: str | None = None,
    gallery: bool = True,
    root: str | None = None,
    imports: Sequence[Path | str] = (),
) -> Path:
    """Plot learning curves and sample predictions, and return the picture's path.

    The curves are accuracy on held-out pictures, accuracy in training and the training loss, by epoch.

    Args:
        folders: Folders of the runs.
        out: Path of the picture. Its suffix selects the format: .png, .svg or .pdf.
        title: Title of the picture.
        gallery: Also show validation pictures, or training pictures if there are none, with the predictions
            of the first run's model at its chosen epoch.
        root: Folder of the data set, for the gallery. Default: the folder that the first run read it from.
        imports: Python files or modules that register the first run's custom parts, for the gallery.

    Raises:
        ConfigError: A folder holds no run. Or, for the gallery, the first run cannot be loaded, or its
            pictures cannot be read.
    """
    if out.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise ConfigError(f"{out}: unknown file format; use the suffix .png, .svg or .pdf")
    import_named(imports)
    runs = [Run(folder) for folder in folders]
    logs = [_log(run) for run in runs]
    names = _names(runs)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11, 9.6 if gallery else 4.2), layout="constrained", dpi=140)
        halves: Any = figure.subfigures(2, 1, height_ratios=(4, 5.4)) if gallery else (figure, None)
        upper, lower = halves
        figure.suptitle(title or (_heading(runs[0], names[0]) if len(runs) == 1 else ""), fontsize=12)
        _curves(upper.subplots(1, 2, width_ratios=(3, 2)), runs, names, logs)
        if lower is not None:
            _gallery(lower, runs[0], names[0], root)
        save_figure(figure, out)
    return out


def save_figure(figure: Figure, out: Path) -> None:
    """Write a figure atomically, in the format of the path's suffix.

    The folder is created if it does not exist.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    with _letters_in_boxes():
        write_atomically(out, lambda file: figure.savefig(file, format=out.suffix[1:].lower()))


def drawn(figure: Figure) -> Image.Image:
    """Return a figure as an RGB image."""
    file = io.BytesIO()
    with _letters_in_boxes():
        figure.savefig(file, format="png")
    return Image.open(file).convert("RGB")


@contextlib.contextmanager
def _letters_in_boxes() -> Iterator[None]:
    """Silence warnings about missing glyphs, which are drawn as boxes."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")
        yield


def _log(run: Run) -> list[dict[str, float]]:
    if not (rows := [row for row in read_log(run.metrics_path) if is_epoch(row)]):
        raise ConfigError(f"{run}: no run, or a run without a finished epoch")
    return rows


def _names(runs: Sequence[Run]) -> list[str]:
    """Return a unique name for each run, with folders if needed."""
    paths = [run.folder.resolve() for run in runs]
    short = [
        f"as_run/{path.parent.name}" if path.parts[-3:-2] == ("as_run",) else path.parent.name
        for path in paths
    ]
    names = [*short]
    for name in {name for name in short if short.count(name) > 1}:
        alike = [i for i, other in enumerate(short) if other == name]
        for length in itertools.count(name.count("/") + 2):
            for i in alike:
                names[i] = "/".join(paths[i].parts[-length:])
            if len({names[i] for i in alike}) == len({paths[i] for i in alike}):
                break
    return names


def _heading(run: Run, name: str) -> str:
    summary = run.summary()
    if summary is None:
        return name
    split = "test" if summary.chosen_on == "test" else "val"
    score = summary.top1(split)
    shown = (
        f"{split} accuracy {score:.1%}" if score is not None else f"train accuracy {summary.train_top1:.1%}"
    )
    remark = f" ({OPTIMISTIC})" if split == "test" else ""
    return f"{name}: {shown}{remark} at epoch {summary.chosen_epoch} of {summary.epochs}"


def _curves(
    axes: Sequence[Axes], runs: Sequence[Run], names: list[str], logs: list[list[dict[str, float]]]
) -> None:
    left, right = axes
    for color, name, rows in zip(COLORS * len(runs), names, logs, strict=False):
        epochs = [row["epoch"] for row in rows]
        held_out = "val" if "val/top1" in rows[0] else "test"
        if f"{held_out}/top1" in rows[0]:
            values = [100 * row[f"{held_out}/top1"] for row in rows]
            kind = "val" if held_out == "val" else f"test ({OPTIMISTIC})"
            left.plot(epochs, values, color=color, marker="o", markersize=3, label=f"{name}, {kind}")
        trained = [100 * row["train/top1"] for row in rows]
        left.plot(epochs, trained, color=color, linestyle="--", linewidth=1.2)
        right.plot(
            epochs,
            [row["train/loss/total"] for row in rows],
            color=color,
            marker="o",
            markersize=3,
            label=name,
        )
    left.set(title="Accuracy (dashed: on training batches)", xlabel="epoch", ylabel="top-1 %", ylim=(0, None))
    right.set(title="Training loss", xlabel="epoch")
    right.set_ylim(0, 1.05 * right.get_ylim()[1])
    for axis in axes:
        axis.grid(alpha=0.25, linewidth=0.6)
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.legend(fontsize=8, frameon=False)


def _gallery(figure: Any, run: Run, name: str, root: str | None) -> None:
    """Show pictures with predictions: green if right, orange if wrong.

    They are validation pictures, or training pictures if there are none.
    """
    trained = load_trained(run.folder).with_data_root(root)
    splits = read_splits(run.folder, trained)
    split = splits.val if splits.val is not None else splits.train
    kind = "validation" if splits.val is not None else "training"
    count = min(GRID_COLUMNS * GRID_ROWS, len(split))
    few = split.first(count)
    precision = pick_precision("float32", torch.device("cpu"))
    logits = torch.cat(
        [logits for logits, _ in logits_of(trained.model, few, precision, trained.saved.image_size)]
    )
    probabilities, guesses = logits.softmax(-1).max(-1)
    images, labels, _ = few.gather(torch.arange(count))
    figure.suptitle(
        f"Predictions of {name} on {kind} pictures (true class in brackets)", fontsize=11, fontweight="bold"
    )
    axes = np.atleast_2d(figure.subplots(GRID_ROWS, GRID_COLUMNS))
    for i, axis in enumerate(axes.flat):
        axis.set_axis_off()
        if i >= count:
            continue
        right = bool(guesses[i] == labels[i])
        axis.imshow(images[i].permute(1, 2, 0).numpy(), interpolation="nearest")
        guess, truth = splits.classes[int(guesses[i])], splits.classes[int(labels[i])]
        said = [f"{guess} {probabilities[i]:.0%}", *([] if right else [f"({truth})"])]
        axis.set_title(
            "\n".join(_wrapped(line) for line in said),
            fontsize=7, fontweight="normal", color=COLORS[2] if right else COLORS[1], pad=2,
        )  # fmt: skip


def _wrapped(text: str) -> str:
    """Wrap a text to the width of a picture in the gallery."""
    return textwrap.fill(text.replace("_", " "), 24)
