"""The process of a run that is trained beside others, and what it tells the one that began it."""

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

from cifarlab.config.recipes import checked
from cifarlab.core.device import pick_device
from cifarlab.core.errors import ConfigError, Failure
from cifarlab.core.plain import Plain
from cifarlab.runs.folder import Run
from cifarlab.runs.log import EpochRow
from cifarlab.runs.signals import Interrupted
from cifarlab.training.loop import train_run
from cifarlab.training.progress import TrainingProgress

# What a process has of a GPU that torch does not count: the driver's context, the kernels of its libraries.
CONTEXT_BYTES = 1 << 30
# What is said meanwhile: a line for the user, and what memory a run takes.
LINE, ROOM = "line", "room"
# The last word of a process: what came of its run.
DONE, SAVED, UNBEGUN, MISTAKE, FAILED = "done", "saved", "unbegun", "mistake", "failed"


class _Reporter(TrainingProgress):
    """Hands each line to the parent process, and what an epoch has shown that a run takes of `device`."""

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
    """(bytes of a GPU's memory that this process takes at most, bytes that are free); None on a CPU."""
    if device.type == "cpu":
        return None
    return torch.cuda.max_memory_reserved(device) + CONTEXT_BYTES, torch.cuda.mem_get_info(device)[0]


def _say(line: Connection, kind: str, text: str, more: Any = None) -> None:
    with contextlib.suppress(OSError):  # A parent that is gone does not keep the run from being saved.
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
    """What a run's process does: train, and tell the parent what a run alone prints, returns or raises."""
    torch.set_num_threads(threads)
    # Until the run hears it, and saves itself, a request to stop ends what there is to end.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    signal.signal(signal.SIGURG, lambda *_: None)
    threading.Thread(target=_wait_for_the_end, args=(line,), daemon=True).start()
    word: tuple[str, str, str | None]
    try:
        try:
            config = checked(plain)
            reporter = _Reporter(line, pick_device(config.train.device))
            train_run(config, Run(folder, recipe, name, recipe_files), reporter, fresh, warnings)
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
    """Stop this process's run when the parent asks for it, or is gone: once, whoever else sends signals."""
    with contextlib.suppress(EOFError, OSError):
        line.recv()
    # All threads block the signal, so that one from outside waits, too, and is one with this.
    os.kill(os.getpid(), signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    # Python calls the handler in the main thread, which may have to be woken.
    main = threading.main_thread().ident
    assert main is not None
    signal.pthread_kill(main, signal.SIGURG)
