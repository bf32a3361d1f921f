"""The process of one of several parallel runs, and its messages to the parent."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from cifarlab.config.recipes import import_and_validate
from cifarlab.core.device import pick_device
from cifarlab.core.errors import ConfigError, Failure
from cifarlab.core.plain import Plain
from cifarlab.runs.folder import Run
from cifarlab.runs.log import EpochRow
from cifarlab.runs.signals import Interrupted
from cifarlab.training.loop import train_run
from cifarlab.training.progress import TrainingProgress

# GPU memory of a process that torch does not count: the driver's context and the libraries' kernels.
CONTEXT_BYTES = 1 << 30
# Messages during training: a line for the user, and the memory that the run needs.
LINE, ROOM = "line", "room"
# The last message of a process: the result of its run. UNBEGUN: it was stopped before training started.
DONE, SAVED, UNBEGUN, MISTAKE, FAILED = "done", "saved", "unbegun", "mistake", "failed"


class _Reporter(TrainingProgress):
    """Progress that sends its lines to the parent and, after each epoch, the use of GPU memory."""

    def __init__(self, line: Connection, device: torch.device):
        super().__init__(quiet=True)
        self._parent, self._device = line, device

    def epoch(self, row: EpochRow, best: bool) -> None:
        super().epoch(row, best)
        if (found := _room(self._device)) is not None:
            _say(self._parent, ROOM, "", found)

    def line(self, text: str, style: str | None = None) -> None:
        _say(self._parent, LINE, text, style)


def _room(device: torch.device) -> tuple[int, int] | None:
    """Return (peak GPU bytes of this process, free GPU bytes). None on a CPU."""
    if device.type == "cpu":
        return None
    return torch.cuda.max_memory_reserved(device) + CONTEXT_BYTES, torch.cuda.mem_get_info(device)[0]


def _say(line: Connection, kind: str, text: str, more: Any = None) -> None:
    with contextlib.suppress(OSError):  # The run must be saved even if the parent has ended.
        line.send((kind, text, more))


def train_alone(
    line: Connection,
    threads: int,
    plain: dict[str, Plain],
    folder: Path,
    recipe: str,
    name: str,
    recipe_files: tuple[dict[str, str], ...],
    fresh: bool,
    warnings: tuple[str, ...],
) -> None:
    """Train a run in this process. Send output and result to the parent.

    Args:
        line: This process's end of the pipe to the parent.
        threads: Number of torch's CPU threads.
        plain: The configuration as plain data.
        folder: Folder of the run.
        recipe: Name of the recipe.
        name: Name of the run.
        recipe_files: Files of the recipe, as in `Recipe.files`.
        fresh: As in `train_run`.
        warnings: As in `train_run`.
    """
    torch.set_num_threads(threads)
    # Before training has started there is nothing to save, so a request to stop ends the process at once.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGURG, lambda *_: None)
    threading.Thread(target=_wait_for_the_end, args=(line,), daemon=True).start()
    word: tuple[str, str, str | None]
    try:
        try:
            config = import_and_validate(plain)
            reporter = _Reporter(line, pick_device(config.train.device))
            train_run(
                config,
                Run(folder, recipe=recipe, name=name, recipe_files=recipe_files),
                progress=reporter,
                fresh=fresh,
                warnings=warnings,
            )
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        word = DONE, "", None
    except KeyboardInterrupt:
        word = UNBEGUN, "", None
    except Interrupted as stop:
        word = SAVED, str(stop), None
    except ConfigError as error:
        word = MISTAKE, str(error), traceback.format_exc()
    except Failure as error:
        word = FAILED, str(error), traceback.format_exc()
    except Exception as error:
        hint = "the same command with --debug shows where"
        word = FAILED, f"{type(error).__name__}: {error} ({hint})", traceback.format_exc()
    _say(line, *word)


def _wait_for_the_end(line: Connection) -> None:
    """Stop this process's run when the parent asks to or has ended."""
    with contextlib.suppress(EOFError, OSError):
        line.recv()
    # All threads block the signal. So one from outside is pending, too, and both are delivered as one.
    os.kill(os.getpid(), signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    # Python calls the handler in the main thread. Wake it up, since it may be in a system call.
    main = threading.main_thread().ident
    assert main is not None
    signal.pthread_kill(main, signal.SIGURG)
