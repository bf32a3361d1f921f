"""Runs trained one after the other, or several at once: each in a process with its share of the cores."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, NamedTuple

import torch

from cifarlab.config import Config
from cifarlab.core.device import num_cores, pick_device
from cifarlab.core.errors import ConfigError, Failure
from cifarlab.runs.folder import Run
from cifarlab.runs.signals import Interrupted, StopRequest
from cifarlab.training.loop import train_run
from cifarlab.training.progress import TrainingProgress
from cifarlab.training.worker import FAILED, LINE, MISTAKE, ROOM, SAVED, train_alone

# A process that is forked has the parent's locks and no device.
CONTEXT = multiprocessing.get_context("spawn")
# What the terminal, or whoever ends a whole group, sends to all processes: the parent alone hears it.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# How often a request to stop is looked for.
SECONDS_BETWEEN_POLLS = 0.2
# A run may come to take this much more than its first epoch showed.
MARGIN = 1.25


class Task(NamedTuple):
    """A run to be trained; warnings: as `train` takes them."""

    config: Config
    run: Run
    warnings: tuple[str, ...] = ()


def usual_at_once(config: Config) -> int:
    """How many runs of a recipe are trained at the same time, at most, where nobody says.

    One on a CPU: in turn, with all cores each, they are as fast (docs/benchmarks.md). On a GPU one for each
    core, since each has a process that gives the device its work; but one where the first epoch does not show
    what memory a run takes. Raises ConfigError as `pick_device`.
    """
    is_told = config.data.multi_scale is None and config.data.val > 0
    if pick_device(config.train.device).type == "cpu" or not is_told:
        return 1
    return num_cores()


def train_all(
    tasks: Iterable[Task],
    at_once: int,
    progress: TrainingProgress,
    fresh: bool = False,
    left_out: Callable[[Task, ConfigError], None] | None = None,
    by_memory: bool = False,
) -> None:
    """Train runs, begun in the given order; what is finished says so.

    tasks: each is asked for when its turn has come. at_once: 1 trains in this process; more: so many at the
    same time, in processes of their own, with the bits of a run alone that has as many threads as each of
    them. left_out: is told of a run that a user's mistake keeps from training, and the others go on; None: it
    is raised. by_memory: of runs that are alike, begin the first alone, and when it has trained an epoch as
    many of at_once as the GPU has memory for, which share the cores anew. Raises as `train` does, after the
    other runs were stopped and saved.
    """
    if at_once > 1:
        _Crew(at_once, progress, fresh, left_out, by_memory).work(iter(tasks))
        return
    for task in tasks:
        try:
            train_run(task.config, task.run, progress, fresh, task.warnings)
        except ConfigError as error:
            if left_out is None:
                raise
            left_out(task, error)


class _Crew:
    """The processes at work, what came of those that ended, and the first error."""

    def __init__(
        self,
        at_once: int,
        progress: TrainingProgress,
        fresh: bool,
        left_out: Callable[[Task, ConfigError], None] | None,
        by_memory: bool,
    ):
        self.most, self.progress, self.fresh, self.left_out = at_once, progress, fresh, left_out
        self.at_once = 1 if by_memory else at_once
        self.threads = max(1, torch.get_num_threads() // at_once)
        self.children: list[_Child] = []
        self.seen: set[Path] = set()
        self.saved = 0
        self.error: tuple[Task, Exception] | None = None

    def work(self, tasks: Iterator[Task]) -> None:
        if torch.cuda.is_initialized():
            torch.cuda.empty_cache()  # What was trained in this process before, teachers, needs it no more.
        with StopRequest() as asked:
            try:
                self.work_until_asked(tasks, asked)
            except Exception:
                # Something went wrong in this process, which hears nobody any more.
                for child in self.children:
                    child.ask_to_stop()
                    child.line.close()
                for child in self.children:
                    child.process.join()
                raise
            finally:
                # Nobody is left unless Ctrl-C was pressed a second time.
                for child in self.children:
                    child.process.kill()
                    child.process.join()
        if self.error is not None:
            self.raise_error(*self.error)
        if asked.signal is not None:
            raise Interrupted(f"{self.saved_runs()}; the same command goes on", 128 + asked.signal)

    def work_until_asked(self, tasks: Iterator[Task], asked: StopRequest) -> None:
        """Begin runs and listen to them until all have ended, because they are finished or were asked to."""
        more = True
        while more or self.children:
            if asked.signal is not None or self.error is not None:
                more = False
                for child in self.children:
                    child.ask_to_stop()
            elif more and len(self.children) < self.at_once:
                task = next(tasks, None)
                more = task is not None
                if task is not None:
                    self.begin(task)
                continue
            self.listen()

    def begin(self, task: Task) -> None:
        """Start a run's process; none for a run that is finished, refused, or was begun already."""
        folder = task.run.folder.resolve()
        if folder in self.seen:
            return
        self.seen.add(folder)
        try:
            if not self.fresh:
                task.run.refuse_other(task.config)
                if task.run.summary() is not None:
                    train_run(task.config, task.run, self.progress)
                    return
        except ConfigError as error:
            self.fail(task, error)
            return
        self.children.append(_Child(task, self.threads, self.fresh))

    def listen(self) -> None:
        """Wait a moment for what the processes have to say, and print it or keep it."""
        ready = wait([child.line for child in self.children], SECONDS_BETWEEN_POLLS)
        for child in [*self.children]:
            if child.line in ready:
                try:
                    kind, text, more = child.line.recv()
                except (EOFError, OSError):
                    self.end(child)
                    continue
                if kind == LINE:
                    named = text if text.startswith(str(child)) else f"{child.label}  {text}"
                    self.progress.line(named, more)
                elif kind == ROOM:
                    self.fill(child, *more)
                else:
                    child.last_word = kind, text, more
            elif not child.process.is_alive() and not child.line.poll():
                # Something that the run began holds the line still.
                self.end(child)

    def fill(self, child: _Child, taken: int, free: int) -> None:
        """Let runs begin beside the first, which has trained an epoch: as many as the GPU has memory for.

        taken, free: bytes of it.
        """
        if self.at_once < self.most:
            self.most = self.at_once = min(self.most, 1 + int(free / (MARGIN * taken)))
            self.threads = max(1, torch.get_num_threads() // self.at_once)
            room = f"{taken / 2**30:.1f} GiB of the GPU, {free / 2**30:.1f} are free"
            self.progress.note(f"{child.label} takes {room}: {self.at_once} at once")

    def end(self, child: _Child) -> None:
        """See what came of a run whose process has ended."""
        self.children.remove(child)
        child.line.close()
        child.process.join()
        kind, text, trace = child.last_word or (FAILED, _last_sign(child.process.exitcode), None)
        if kind == SAVED:
            self.saved += 1
            self.progress.line(text.partition("; the same command")[0])
        elif kind in (MISTAKE, FAILED):
            error = ConfigError(text) if kind == MISTAKE else Failure(text)
            error.__cause__ = _Elsewhere(trace) if trace else None
            self.fail(child.task, error)

    def fail(self, task: Task, error: ConfigError | Failure) -> None:
        """Leave a run out, if it is a mistake and somebody is to be told; else stop all."""
        if self.left_out is not None and isinstance(error, ConfigError):
            self.left_out(task, error)
        elif self.error is None:
            self.error = task, error

    def raise_error(self, task: Task, error: Exception) -> None:
        """Raise the first run's error, with the run's name, and what became of the others."""
        text = str(error) if str(task.run) in str(error) else f"{task.run}: {error}"
        if text.startswith(f"{task.run}: out of memory at"):
            text += ", or a lower --at-once"
        if self.saved:
            text += f" ({self.saved_runs()} that trained beside it)"
        raise type(error)(text) from error.__cause__

    def saved_runs(self) -> str:
        if not self.saved:
            return "no run had anything to save"
        return f"saved {self.saved} run{'s' * (self.saved > 1)}"


class _Child:
    """A run's process, the line to it, and the last that it said."""

    def __init__(self, task: Task, threads: int, fresh: bool):
        self.task = task
        self.label = f"{task.run.name}/{task.run.folder.absolute().name}"
        self.last_word: tuple[str, str, Any] | None = None
        self.asked = False
        self.line, theirs = CONTEXT.Pipe()
        run = task.run
        of_run = (run.folder, run.recipe, run.name, run.recipe_files)
        work = (theirs, threads, task.config.dump(), *of_run, fresh, task.warnings)
        self.process = CONTEXT.Process(target=train_alone, args=work, name=self.label)
        with _inherited(threads):
            self.process.start()
        theirs.close()

    def __str__(self) -> str:
        return str(self.task.run)

    def ask_to_stop(self) -> None:
        """Have the run saved and its process end; said once."""
        if not self.asked:
            self.asked = True
            with contextlib.suppress(OSError):  # It has ended.
                self.line.send(None)


@contextlib.contextmanager
def _inherited(threads: int) -> Iterator[None]:
    """What a process has from its first moment: no ear for signals, and the number of its threads."""
    resource_tracker.ensure_running()  # When it is started it lets the signals through again.
    before = os.environ.get("OMP_NUM_THREADS")
    heard = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    # Libraries read it when they are loaded, and that is before any of our code runs there.
    os.environ["OMP_NUM_THREADS"] = str(threads)
    try:
        yield
    finally:
        if before is None:
            del os.environ["OMP_NUM_THREADS"]
        else:
            os.environ["OMP_NUM_THREADS"] = before
        signal.pthread_sigmask(signal.SIG_SETMASK, heard)


def _last_sign(status: int | None) -> str:
    """Why a process may have ended without a word."""
    if status is not None and status < 0:
        name = signal.Signals(-status).name
        return f"its process was killed ({name}): out of memory? A lower --at-once takes less"
    return f"its process ended without a word, with status {status}"


class _Elsewhere(Exception):
    """The traceback of an error in another process."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"
