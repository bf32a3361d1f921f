"""Training of several runs, one after the other or in parallel processes."""

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

# Not fork: a forked process inherits the parent's locks and cannot use its CUDA device.
CONTEXT = multiprocessing.get_context("spawn")
# A terminal sends these signals to the whole process group. Only the parent handles them.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# How often the parent checks for a request to stop.
SECONDS_BETWEEN_POLLS = 0.2
# A run may later need this multiple of the memory that its first epoch needed.
MARGIN = 1.25


class Task(NamedTuple):
    """Arguments of `train_run` for a run to train."""

    config: Config
    run: Run
    warnings: tuple[str, ...] = ()


def usual_at_once(config: Config) -> int:
    """Return the default limit on runs to train at once.

    On a CPU it is 1, since one run after the other on all cores is as fast (docs/benchmarks.md). On a GPU it
    is 1 if later epochs may need more memory than the first. Else it is the number of cores, since each run
    needs one to launch kernels. Raise ConfigError if the device does not exist.
    """
    is_told = config.data.multi_scale is None and config.data.val > 0
    if pick_device(config.train.device).type == "cpu" or not is_told:
        return 1
    return num_cores()


def train_all(
    tasks: Iterable[Task],
    at_once: int,
    progress: TrainingProgress,
    *,
    fresh: bool = False,
    left_out: Callable[[Task, ConfigError], None] | None = None,
    by_memory: bool = False,
) -> None:
    """Train runs in the given order. For finished runs, only print results.

    Args:
        tasks: The runs. Each is taken from the iterable when its turn comes.
        at_once: Number of runs to train at the same time, each in a process of its own; 1: in this process.
            Results are bit-identical to those of a run trained alone with as many threads.
        progress: Output for the user.
        fresh: Remove the files of earlier runs in the same folders first.
        left_out: Called with a run and the ConfigError that it raised; the other runs continue. None: the
            error is raised.
        by_memory: Start the first run alone. After its first epoch, start as many others as the GPU has
            memory for, up to `at_once` runs in all. All runs must have the same recipe.

    Raises:
        ConfigError, Interrupted, Failure: As in `train_run`, after the other runs were stopped and saved.
    """
    if at_once > 1:
        _Crew(at_once, progress, fresh, left_out, by_memory).work(iter(tasks))
        return
    for task in tasks:
        try:
            train_run(task.config, task.run, progress=progress, fresh=fresh, warnings=task.warnings)
        except ConfigError as error:
            if left_out is None:
                raise
            left_out(task, error)


class _Crew:
    """The running processes, the results of ended ones, and the first error."""

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
            torch.cuda.empty_cache()  # Teachers may have been trained in this process before.
        with StopRequest() as asked:
            try:
                self.work_until_asked(tasks, asked)
            except Exception:
                # An error of this process. Stop the children, since their messages are no longer read.
                for child in self.children:
                    child.ask_to_stop()
                    child.line.close()
                for child in self.children:
                    child.process.join()
                raise
            finally:
                # Children are left only if Ctrl-C was pressed a second time.
                for child in self.children:
                    child.process.kill()
                    child.process.join()
        if self.error is not None:
            self.raise_error(*self.error)
        if asked.signal is not None:
            raise Interrupted(f"{self.saved_runs()}; the same command resumes the runs", 128 + asked.signal)

    def work_until_asked(self, tasks: Iterator[Task], asked: StopRequest) -> None:
        """Start runs and read their messages until all end. Stop them if asked."""
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
        """Start a run's process, unless it is finished, invalid, or already started."""
        folder = task.run.folder.resolve()
        if folder in self.seen:
            return
        self.seen.add(folder)
        try:
            if not self.fresh:
                task.run.refuse_other(task.config)
                if task.run.summary() is not None:
                    train_run(task.config, task.run, progress=self.progress)
                    return
        except ConfigError as error:
            self.fail(task, error)
            return
        self.children.append(_Child(task, self.threads, self.fresh))

    def listen(self) -> None:
        """Wait briefly for messages of the processes; print or keep them."""
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
                # A subprocess of the run may still hold the pipe open.
                self.end(child)

    def fill(self, child: _Child, taken: int, free: int) -> None:
        """Raise the number of runs at once to what GPU memory allows.

        Args:
            child: The first run.
            taken: Bytes of GPU memory that its process uses.
            free: Bytes of GPU memory that are free.
        """
        if self.at_once < self.most:
            self.most = self.at_once = min(self.most, 1 + int(free / (MARGIN * taken)))
            self.threads = max(1, torch.get_num_threads() // self.at_once)
            room = f"{taken / 2**30:.1f} GiB of GPU memory, {free / 2**30:.1f} GiB are free"
            self.progress.note(f"{child.label} needs {room}: training {self.at_once} at once")

    def end(self, child: _Child) -> None:
        """Record the result of a run whose process has ended."""
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
        """Pass a user's mistake to `left_out`, if given. Else stop all runs."""
        if self.left_out is not None and isinstance(error, ConfigError):
            self.left_out(task, error)
        elif self.error is None:
            self.error = task, error

    def raise_error(self, task: Task, error: Exception) -> None:
        """Raise a run's error, naming the run and how many were saved."""
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
    """The process of a run, its pipe, and its last message."""

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
        """Ask the process to save the run and exit. Further calls do nothing."""
        if not self.asked:
            self.asked = True
            with contextlib.suppress(OSError):  # The process has ended.
                self.line.send(None)


@contextlib.contextmanager
def _inherited(threads: int) -> Iterator[None]:
    """Block SIGNALS, and set OMP_NUM_THREADS, for processes started in the `with` body."""
    resource_tracker.ensure_running()  # Start it before: its start unblocks the signals.
    before = os.environ.get("OMP_NUM_THREADS")
    heard = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    # Libraries read it when they are loaded, before any of our code runs in the process.
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
    """Explain why a process ended without a last message."""
    if status is not None and status < 0:
        name = signal.Signals(-status).name
        return f"its process was killed ({name}), perhaps out of memory; a lower --at-once needs less"
    return f"its process ended without a message, with exit status {status}"


class _Elsewhere(Exception):
    """The traceback of an error in another process, as text."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"
