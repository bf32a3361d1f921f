"""Output of training: a line for each epoch and, in a terminal, a live progress bar."""

from __future__ import annotations

import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from cifarlab.runs.log import EpochRow
from cifarlab.runs.summary import Summary

OPTIMISTIC = "chosen on test: optimistic"


class TrainingProgress:
    """Printer of a line per epoch and, in a terminal, a progress bar.

    Args:
        console: Where to print. Default: a new console for stdout.
        quiet: Print nothing. Used only if `console` is None.
    """

    def __init__(self, console: Console | None = None, *, quiet: bool = False):
        self.console = console or Console(highlight=False, emoji=False, quiet=quiet)
        self._live: Progress | None = None
        self._task: Any = None

    def line(self, text: str, style: str | None = None) -> None:
        """Print a line. All output except the progress bar goes through this method."""
        # Wrap long lines in a terminal only: elsewhere a program may read them.
        self.console.print(text, style=style, markup=False, soft_wrap=not self.console.is_terminal)

    def note(self, text: str) -> None:
        """Print a note: a fact that is good to know."""
        self.line(text)

    def warn(self, text: str) -> None:
        """Print a warning. The result may be worse, or less meaningful than it seems."""
        self.line(f"warning: {text}", style="yellow")

    def start(self, epochs: int, first_epoch: int, steps_per_epoch: int, select: str) -> None:
        """Start the output of a run.

        Args:
            epochs: Last epoch of the run, counted from 1.
            first_epoch: First epoch to train, counted from 0.
            steps_per_epoch: Number of steps in an epoch.
            select: Value of `train.select`.
        """
        self._epochs, self._first, self._steps = epochs, first_epoch, steps_per_epoch
        self._select = select
        self._begun = time.monotonic()
        if self.console.is_terminal and not self.console.quiet:
            self._live = Progress(
                TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}"), BarColumn(bar_width=30),
                TextColumn("{task.completed}/{task.total}  {task.fields[text]}", markup=False),
                console=self.console, transient=True, refresh_per_second=4,
            )  # fmt: skip
            self._live.start()
            self._task = self._live.add_task(
                "", total=steps_per_epoch, epoch=first_epoch + 1, epochs=epochs, text=""
            )

    def step(
        self, epoch: int, step: int, means: dict[str, float], lr: float, images_per_second: float
    ) -> None:
        """Update the progress bar within an epoch.

        Args:
            epoch: The epoch, counted from 0.
            step: Number of steps of the epoch that are done.
            means: Means of losses and accuracy over the epoch so far, by name. They may be missing.
            lr: Learning rate.
            images_per_second: Speed of training.
        """
        if self._live:
            done = epoch + step / self._steps
            words = [*_losses(means), *([f"train {means['top1']:.2%}"] if "top1" in means else [])]
            words += [f"lr {lr:.2e}", f"{images_per_second:,.0f} img/s", f"left {duration(self._left(done))}"]
            self._live.update(self._task, completed=step, epoch=epoch + 1, text="  ".join(words))

    def _left(self, done: float) -> float:
        """Estimate the seconds left after `done` epochs from the speed since `start`."""
        return (time.monotonic() - self._begun) / max(done - self._first, 1e-9) * (self._epochs - done)

    def epoch(self, row: EpochRow, best: bool) -> None:
        """Print the line of a finished epoch. A star marks it if it is the best so far (`best`)."""
        width = len(str(self._epochs))
        parts = [f"epoch {row['epoch']:>{width}}/{self._epochs}"]
        parts += _losses(
            {key.removeprefix("train/"): value for key, value in row.items() if key.startswith("train/loss/")}
        )
        parts += [
            f"{split} {row[f'{split}/top1']:6.2%}"
            for split in ("train", "val", "test")
            if f"{split}/top1" in row
        ]
        parts += ["(optimistic)"] if self._select == "test" else []
        parts += [f"lr {row['lr']:.2e}", f"{row['images_per_second']:,.0f} img/s"]
        parts += (
            [f"left {duration(self._left(row['epoch']))}"]
            if row["epoch"] < self._epochs and not self._live
            else []
        )
        parts += ["*"] if best else []
        self.line("  ".join(parts))

    def stop(self) -> None:
        """Remove the progress bar."""
        if self._live:
            self._live.stop()
            self._live = None

    def finish(self, summary: Summary, folder: str) -> None:
        """Print the scores and the duration of the run in `folder`."""
        found = {split: summary.top1(split) for split in ("train", "val", "test")}
        scores = [f"{split} {top1:.2%}" for split, top1 in found.items() if top1 is not None]
        how = {"val": "chosen on val", "last": "the last", "test": OPTIMISTIC}[summary.chosen_on]
        if summary.ended_by == "train.patience":
            how += f"; train.patience ended it after {summary.epochs_run}"
        self.line(
            f"{folder}: {'  '.join(scores)} (epoch {summary.chosen_epoch} of {summary.epochs}, {how}), "
            f"{duration(summary.seconds)}, {summary.images_per_second:,.0f} img/s",
            style="bold",
        )
        if by_size := summary.val_top1_by_image_size:
            scores = [f"{top1:.2%} at {size} px" for size, top1 in by_size.items()]
            self.note(f"{folder}: val {', '.join(scores)}")


def _losses(means: dict[str, float]) -> list[str]:
    """Format the mean losses.

    One loss gives e.g. [`loss 1.234`], two give e.g. [`loss 1.234 (ce 1.000, kd 0.234)`], none gives [].
    """
    losses = {key.removeprefix("loss/"): value for key, value in means.items() if key.startswith("loss/")}
    if not losses:
        return []
    terms = [f"{label} {value:.3f}" for label, value in losses.items() if label != "total"]
    shown = f"loss {losses.get('total', 0.0):.3f}"
    return [shown if len(terms) < 2 else f"{shown} ({', '.join(terms)})"]


def duration(seconds: float) -> str:
    """Format a duration, e.g. `42 s`, `3 min 20 s`, `1 h 12 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
