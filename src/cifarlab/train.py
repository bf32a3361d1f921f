"""`train(config, run)`: the loop. There is one."""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import torch
from torch.utils.flop_counter import FlopCounterMode

from cifarlab import checkpoint
from cifarlab.config import Config
from cifarlab.data.splits import Split, Splits, channel_statistics, load_splits, place
from cifarlab.device import (
    describe_hardware,
    peak_memory,
    pick_device,
    pick_precision,
    picture_budget,
    use_deterministic,
)
from cifarlab.draws import hash_ints, label_key
from cifarlab.engine import Engine, is_finite
from cifarlab.evaluate import evaluate
from cifarlab.metrics import RunLog
from cifarlab.models.classifier import Classifier, build_classifier, to_device
from cifarlab.objectives.objective import build_objective
from cifarlab.progress import OPTIMISTIC, TrainingProgress
from cifarlab.run import Failure, Interrupted, Run, describe_environment

# An epoch that takes longer than this saves in between, too.
SECONDS_BETWEEN_SAVES = 600.0
# How often a terminal's line changes, and a loss that is not finite is noticed, where looking costs nothing
# (the CPU).
SECONDS_BETWEEN_LOOKS = 1.0


@dataclass(frozen=True)
class Job:
    """What a run needs before its folder may be made: all that can be a user's mistake is behind it."""

    splits: Splits
    engine: Engine
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


def train(
    config: Config, run: Run, progress: TrainingProgress | None = None, fresh: bool = False
) -> dict[str, Any]:
    """Train to the end, from the start or from where the run was left, and return its summary.

    A finished run is not trained again. fresh: remove what the folder holds first. Raises ConfigError for a
    user's mistake (before a folder is made), Interrupted on SIGINT and SIGTERM (after saving), Failure where
    the run cannot go on.
    """
    progress = progress or TrainingProgress(quiet=True)
    begun = time.monotonic()
    if run.started and not fresh:
        run.refuse_other(config, run.folder.parent.name)
        if (summary := run.summary()) is not None:
            progress.note(f"{run} is finished; `--fresh` starts it over")
            progress.finish(summary, str(run))
            return summary
    with _out_of_memory_explained(config):
        # What a checkpoint holds need not be fetched a second time.
        job = prepare(config, initial=fresh or not run.last_path.exists())
        with run.locked():
            if fresh:
                run.start_over()
            return _Training(config, run, job, progress, begun).run_to_the_end()


def prepare(config: Config, initial: bool = True) -> Job:
    """Read the data; build model, objective and optimizer on the device. Raises ConfigError.

    initial: read pretrained weights and `model.init`; not needed where a checkpoint is loaded after.
    """
    device = pick_device(config.train.device)
    precision = pick_precision(config.train.precision, device)
    use_deterministic(device, config.train.deterministic)
    parts = ("train", "val", "test") if config.train.select == "test" else ("train", "val")
    splits = load_splits(config.data, config.train.seed, parts)
    budget = picture_budget(device)
    splits = replace(
        splits,
        train=place(splits.train, device, budget),
        val=place(splits.val, device, budget) if splits.val else None,
        test=place(splits.test, device, budget) if splits.test else None,
    )
    notes, warnings = [*splits.notes], [*splits.warnings]
    if splits.train.images.device.type != device.type:
        size = splits.train.images.nbytes / 2**30
        notes.append(
            f"the pictures ({size:.1f} GiB) do not fit on {device}: kept on the host and gathered there"
        )
    torch.manual_seed(hash_ints(config.train.seed, label_key("weights")))
    statistics = channel_statistics(splits.train) if config.model.normalize == "dataset" else None
    model = build_classifier(
        config.model,
        config.data.image_size,
        len(splits.classes),
        statistics,
        classes=splits.classes,
        initial=initial,
    )
    notes += [str(report) for report in model.loaded]
    model = to_device(model, device)
    objective = build_objective(config.objective, len(splits.classes), model.num_features).to(device)
    if config.train.select == "test":
        warnings.append(f"the epoch is {OPTIMISTIC}")
    return Job(
        splits, Engine(config, model, objective, splits.train, precision), tuple(notes), tuple(warnings)
    )


class _Training:
    """One sitting of a run, and the state that outlives it."""

    def __init__(self, config: Config, run: Run, job: Job, progress: TrainingProgress, begun: float):
        self.config, self.run, self.progress = config, run, progress
        self.splits, self.engine, self.job = job.splits, job.engine, job
        self.begun, self.seconds_before = begun, 0.0
        self.step = 0
        self.best: dict[str, Any] | None = None
        self.log_size = 0

    def run_to_the_end(self) -> dict[str, Any]:
        plan = self.engine.plan
        self.resume()
        self.run.write_config(self.config)
        self.write_env()
        self.log = RunLog(self.run.folder, self.log_size)
        self.last_save = time.monotonic()
        self.progress.start(self.config.train.epochs, self.step // plan.steps_per_epoch, plan.steps_per_epoch)
        try:
            with StopRequest() as asked:
                for epoch in range(self.step // plan.steps_per_epoch, self.config.train.epochs):
                    self.train_epoch(epoch, asked)
                    self.close_epoch(epoch)
                    if asked.signal is not None and epoch + 1 < self.config.train.epochs:
                        asked.raise_interrupted(self.run, f"the end of epoch {epoch + 1}")
            return self.conclude()
        finally:
            self.progress.stop()
            self.log.close()

    def resume(self) -> None:
        """Go on from `last.pt`, if the run has one."""
        for line in self.job.warnings:
            self.progress.warn(line)
        for line in self.job.notes:
            self.progress.note(line)
        if not self.run.last_path.exists():
            return
        state = checkpoint.load(self.run.last_path, self.engine.device)
        self.engine.load_state_dict(state["engine"])
        self.step, self.best, self.log_size = state["step"], state["best"], state["log_size"]
        self.seconds_before = state["seconds"]
        epochs, steps = divmod(self.step, self.engine.plan.steps_per_epoch)
        where = f"epoch {epochs + 1}, step {steps + 1}" if steps else f"epoch {epochs + 1}"
        self.progress.note(f"{self.run}: goes on at {where}")

    def train_epoch(self, epoch: int, asked: StopRequest) -> None:
        """Train on what is left of an epoch."""
        engine, plan = self.engine, self.engine.plan
        order = engine.order(epoch)
        first = self.step - epoch * plan.steps_per_epoch
        engine.model.train()
        self.epoch_begun = last_look = time.monotonic()
        for step in range(first, plan.steps_per_epoch):
            engine.step(plan.positions(order, step), epoch, self.step)
            self.step += 1
            if step + 1 == plan.steps_per_epoch:
                # A checkpoint that vouches for a whole epoch must hold its scores: `close_epoch` writes it.
                break
            if asked.signal is not None:
                self.stop_if_diverged()
                self.save()
                asked.raise_interrupted(self.run, f"epoch {epoch + 1}, step {step + 1}")
            now = time.monotonic()
            if now - last_look > SECONDS_BETWEEN_LOOKS:
                last_look = now
                pace = (step + 1 - first) * plan.batch_size / (now - self.epoch_begun)
                # On a GPU a look would wait for the device: there the epoch's end is soon enough.
                means = engine.means.read() if engine.device.type == "cpu" else {}
                if engine.device.type == "cpu":
                    self.stop_if_diverged()
                self.progress.step(epoch, step + 1, means, pace)
            if now - self.last_save > SECONDS_BETWEEN_SAVES:
                self.stop_if_diverged()
                self.save()
        self.pictures = plan.samples_before(plan.steps_per_epoch) - plan.samples_before(first)

    def stop_if_diverged(self) -> None:
        """Raise Failure if a loss was not finite. The checkpoint stays: it is older than the bad step."""
        step = self.engine.means.first_bad_step()
        if step is not None:
            self.fail_diverged(f"the loss was not finite at step {step + 1}", step)

    def fail_diverged(self, what: str, step: int) -> None:
        kept = f"; {self.run.last_path} is from before" if self.run.last_path.exists() else ""
        raise Failure(
            f"{what} (epoch {step // self.engine.plan.steps_per_epoch + 1}, learning rate "
            f"{self.engine.learning_rate(step):.2e}); try a lower optim.lr, train.grad_clip=1, "
            f"a longer warm-up (optim.schedule.warmup=0.05) or train.precision=float32{kept}"
        )

    def close_epoch(self, epoch: int) -> None:
        """Evaluate, log, keep the best, save."""
        engine = self.engine
        self.stop_if_diverged()
        means = engine.means.read()
        engine.means.reset()
        row: dict[str, Any] = {"epoch": epoch + 1, "step": self.step}
        row |= {f"train/{key}": value for key, value in means.items()}
        for name, split in (("val", self.splits.val), ("test", self.splits.test)):
            if split is not None:
                row |= {f"{name}/{key}": value for key, value in self.evaluate(split).items()}
        row["lr"] = engine.learning_rate(self.step - 1)
        if not is_finite(row):
            self.fail_diverged("the scores were not finite at the end of the epoch", self.step - 1)
        elapsed = time.monotonic() - self.epoch_begun
        row |= {"seconds": elapsed, "images_per_second": self.pictures / elapsed}
        better = self.is_better(row)
        if better:
            self.best = row
            self.save_best(row)
        self.log.append(row)
        self.log_size = self.log.size
        self.save()
        self.progress.epoch(row, better and self.config.train.select != "last")

    def is_better(self, row: dict[str, Any]) -> bool:
        """Whether the epoch is the one to keep, so far; of equals the first."""
        select = self.config.train.select
        return select == "last" or self.best is None or row[f"{select}/top1"] > self.best[f"{select}/top1"]

    def evaluate(self, split: Split) -> dict[str, float]:
        return evaluate(self.engine.evaluated, split, self.engine.precision, self.config.data.image_size)

    def save(self) -> None:
        """Write `last.pt`: all that the rest of the run depends on."""
        state = {
            "engine": self.engine.state_dict(),
            "step": self.step,
            "best": self.best,
            "log_size": self.log_size,
            "seconds": self.seconds(),
        }
        checkpoint.save(self.run.last_path, state)
        self.last_save = time.monotonic()

    def save_best(self, row: dict[str, Any]) -> None:
        """Write `best.pt`: a model that stands alone, with its configuration and the names of its classes."""
        state = {
            "model": self.engine.evaluated.state_dict(),
            "config": self.config.dump(),
            "classes": list(self.splits.classes),
            "store_size": self.splits.train.images.shape[-1],
            "row": row,
        }
        checkpoint.save(self.run.best_path, state)

    def seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self.begun

    def write_env(self) -> None:
        env = describe_environment(describe_hardware(self.engine.device))
        env |= {
            "precision": str(self.engine.precision),
            "data_fingerprint": self.splits.fingerprint,
            "weights": [report.record() for report in self.engine.model.loaded],
            "notes": [*self.job.notes],
            "warnings": [*self.job.warnings],
        }
        self.run.write_env(env)

    def conclude(self) -> dict[str, Any]:
        """Score the chosen epoch on clean pictures and write `summary.json`: the run is finished."""
        assert self.best is not None, "a run has at least one epoch"
        config, engine, best = self.config, self.engine, self.best
        chosen = checkpoint.load(self.run.best_path, engine.device)
        engine.evaluated.load_state_dict(chosen["model"])
        train_top1 = self.evaluate(self.splits.train)["top1"]
        val_top1 = best.get("val/top1")
        seconds = self.seconds()
        pictures = config.train.epochs * engine.plan.samples_before(engine.plan.steps_per_epoch)
        summary = {
            "recipe": self.run.recipe,
            "seed": config.train.seed,
            "epochs": config.train.epochs,
            "chosen_on": config.train.select,
            "chosen_epoch": best["epoch"],
            "train_top1": train_top1,
            "val_top1": val_top1,
            "test_top1": best.get("test/top1"),
            "gap": train_top1 - val_top1 if val_top1 is not None else None,
            "seconds": seconds,
            "images_per_second": pictures / seconds,
            "parameters": sum(p.numel() for p in engine.model.parameters()),
            "macs": count_macs(engine.model, config.data.image_size),
            "peak_memory_bytes": peak_memory(engine.device),
            "data_fingerprint": self.splits.fingerprint["train"],
            "warnings": [*self.job.warnings],
        }
        checkpoint.write_json(self.run.summary_path, summary)
        self.progress.stop()
        self.progress.finish(summary, str(self.run))
        return summary


class StopRequest:
    """While entered, a first SIGINT or SIGTERM is noted in `signal`; a second one stops the process."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        # Python allows signal handlers in the main thread only.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def _note(self, number: int, frame: Any) -> None:
        self.signal = int(number)
        self.__exit__()

    def raise_interrupted(self, run: Run, where: str) -> NoReturn:
        """Leave the run, which was saved at `where`."""
        assert self.signal is not None
        raise Interrupted(f"saved {run} at {where}; the same command goes on", 128 + self.signal)

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


@contextlib.contextmanager
def _out_of_memory_explained(config: Config) -> Iterator[None]:
    """Turn an allocator's failure into one line that says what to lower."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        # The CPU's allocator raises a bare RuntimeError.
        is_memory = not isinstance(error, RuntimeError) or isinstance(error, torch.OutOfMemoryError)
        if not is_memory and "can't allocate memory" not in str(error):
            raise
        data = config.data
        raise Failure(
            f"out of memory at data.batch_size={data.batch_size}, data.image_size={data.image_size}; "
            f"try data.batch_size={max(1, data.batch_size // 2)} (with another --name, or --fresh)"
        ) from error


def count_macs(model: Classifier, image_size: int) -> int:
    """Multiply-adds of a forward pass for one picture, convolutions and matrix products only."""
    parameter = next(model.parameters())
    picture = torch.zeros(1, 3, image_size, image_size, device=parameter.device)
    was_training = model.training
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval()(picture)
    model.train(was_training)
    return counter.get_total_flops() // 2
