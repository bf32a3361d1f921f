"""`train_run(config, run)`: the loop. There is one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NoReturn

from cifarlab.config import Config
from cifarlab.core.device import peak_memory, pick_device, reset_peak_memory
from cifarlab.core.errors import Failure
from cifarlab.data.cache import Stopped
from cifarlab.engine.running_means import is_finite
from cifarlab.runs.folder import Run
from cifarlab.runs.ledger import record_opening
from cifarlab.runs.log import RunLog
from cifarlab.runs.signals import StopRequest
from cifarlab.runs.summary import Summary
from cifarlab.training.memory import out_of_memory_explained
from cifarlab.training.progress import TrainingProgress
from cifarlab.training.resume import best_state, read_best
from cifarlab.training.saver import Saver
from cifarlab.training.scored import score_finished
from cifarlab.training.setup import Job, prepare, refuse_to_remove_a_source
from cifarlab.training.start import start
from cifarlab.training.state import LoopState

# An epoch that takes longer than this saves in between, too.
SECONDS_BETWEEN_SAVES = 600.0
# How often a terminal's line changes, and a loss that is not finite is noticed, where looking costs nothing
# (the CPU).
SECONDS_BETWEEN_LOOKS = 1.0


def train_run(
    config: Config,
    run: Run,
    progress: TrainingProgress | None = None,
    fresh: bool = False,
    warnings: Sequence[str] = (),
) -> Summary:
    """Train to the end, from the start or from where the run was left, and return its summary.

    A finished run is not trained again. fresh: remove what the run wrote first. warnings: a line each, to be
    said and recorded beside the run's own. Raises ConfigError for a user's mistake (no folder is made),
    Interrupted on SIGINT and SIGTERM (after saving), Failure where the run cannot go on.
    """
    progress = progress or TrainingProgress(quiet=True)
    if not fresh and (summary := _finished(config, run)):
        return _say_finished(run, summary, progress)
    with out_of_memory_explained(config), run.locked():
        # Asked again: another process may have made, finished or replaced the run before the lock was ours.
        if not fresh and (summary := _finished(config, run)):
            return _say_finished(run, summary, progress)
        progress.note(f"{run}: reading {config.data.dataset.name}, building the model")
        # Runs that this process trained before may have held more.
        reset_peak_memory(pick_device(config.train.device))
        # What a checkpoint holds need not be fetched a second time.
        job = prepare(config, initial=fresh or not run.last_path.exists(), runs=run.runs)
        job.remarks.warn(*warnings)
        if fresh:
            refuse_to_remove_a_source(config, run.folder, job.teacher)
            run.start_over()
        state = start(config, run, job, progress)
        return _Training(config, run, job, state, progress).run_to_the_end()


def _finished(config: Config, run: Run) -> Summary | None:
    """The run's summary if it is done. Raises ConfigError if it is a run of another configuration."""
    run.refuse_other(config)
    return run.summary()


def _say_finished(run: Run, summary: Summary, progress: TrainingProgress) -> Summary:
    progress.note(f"{run} is finished; `--fresh` starts it over")
    progress.finish(summary, str(run))
    return summary


class _Training:
    """The epochs of a run from its state to its end."""

    def __init__(self, config: Config, run: Run, job: Job, state: LoopState, progress: TrainingProgress):
        self.config, self.run, self.job, self.state, self.progress = config, run, job, state, progress
        self.engine, self.splits = job.engine, job.splits
        self.log = RunLog(run.folder, state.log_size)
        self.saver = Saver(run.best_path, run.last_path, job.engine.device)
        self.asked = StopRequest()
        self.begun = self.last_save = self.epoch_begun = time.monotonic()

    def run_to_the_end(self) -> Summary:
        train, steps_per_epoch = self.config.train, self.engine.plan.steps_per_epoch
        done = self.state.step // steps_per_epoch
        self.progress.start(train.last_epoch, done, steps_per_epoch, train.select)
        try:
            with self.asked, self.saver:
                for epoch in range(done, train.last_epoch):
                    if self.state.is_out_of_patience(train.patience, epoch):
                        break
                    pictures = self.train_epoch(epoch)
                    self.close_epoch(epoch, pictures)
                    if self.is_asked():
                        self.leave(f"the end of epoch {epoch + 1}")
                summary = self.conclude()
                if self.is_asked():
                    self.asked.raise_interrupted(self.run, "its end, finished")
                return summary
        finally:
            self.progress.stop()

    def is_asked(self) -> bool:
        """Tell whether a signal asked the run to stop."""
        return self.asked.signal is not None

    def begin_epoch(self, epoch: int) -> None:
        """Make ready what is kept: activations of the frozen part, the teacher's answers."""
        try:
            if self.job.activations is not None:
                for line in self.job.activations.begin(epoch, self.is_asked):
                    self.progress.note(line)
            begun = time.monotonic()
            answered = self.engine.begin(epoch, self.is_asked)
        except Stopped:
            self.save_between()
            self.leave(f"the beginning of epoch {epoch + 1}")
        if answered and (health := self.state.distillation) is not None:
            spent = health.cache_seconds + time.monotonic() - begun
            self.state.distillation = health.changed(cache_seconds=spent)
            self.progress.note(answered)

    def train_epoch(self, epoch: int) -> int:
        """Train on what is left of an epoch; return how many pictures that were."""
        engine, plan, state = self.engine, self.engine.plan, self.state
        self.begin_epoch(epoch)
        order = engine.order(epoch)
        first = state.step - epoch * plan.steps_per_epoch
        engine.model.train()
        self.epoch_begun = last_look = time.monotonic()
        for step in range(first, plan.steps_per_epoch):
            engine.step(order, epoch, state.step)
            state.step += 1
            if step + 1 == plan.steps_per_epoch:
                # A checkpoint that vouches for a whole epoch must hold its scores: `close_epoch` writes it.
                break
            if self.is_asked():
                self.save_between()
                self.leave(f"epoch {epoch + 1}, step {step + 1}")
            now = time.monotonic()
            if now - last_look > SECONDS_BETWEEN_LOOKS:
                last_look = now
                pace = (step + 1 - first) * plan.step_size / (now - self.epoch_begun)
                # On a GPU a look would wait for the device: there the epoch's end is soon enough.
                means = engine.means.read() if engine.device.type == "cpu" else {}
                if engine.device.type == "cpu":
                    self.stop_if_diverged()
                self.progress.step(epoch, step + 1, means, engine.learning_rate(state.step), pace)
            if now - self.last_save > SECONDS_BETWEEN_SAVES:
                self.save_between()
        return plan.samples_per_epoch - plan.samples_before(first)

    def stop_if_diverged(self) -> None:
        """Raise Failure if a loss was not finite. The checkpoint stays: it is older than the bad step."""
        step = self.engine.means.first_bad_step()
        if step is not None:
            self.fail_diverged(f"the loss was not finite at step {step + 1}", step)

    def stop_if_weights_diverged(self) -> None:
        """Raise Failure if the last step's update was not finite, which its loss does not tell."""
        if not self.engine.has_finite_weights():
            self.fail_diverged("the weights were not finite", self.state.step - 1)

    def fail_diverged(self, what: str, step: int) -> NoReturn:
        self.saver.wait()  # What it may have to say of the disk matters less.
        kept = f"; {self.run.last_path} is from before" if self.run.last_path.exists() else ""
        raise Failure(
            f"{what} (epoch {step // self.engine.plan.steps_per_epoch + 1}, learning rate "
            f"{self.engine.learning_rate(step):.2e}); try a lower optim.lr, train.grad_clip=1, "
            f"a longer warm-up (optim.schedule.warmup=0.05) or train.precision=float32, "
            f"with another --name or --fresh{kept}"
        )

    def close_epoch(self, epoch: int, pictures: int) -> None:
        """Evaluate, log, keep the best, save. pictures: that were trained on since `epoch_begun`."""
        engine, state = self.engine, self.state
        self.stop_if_diverged()
        engine.finish(epoch)
        means = engine.means.read()
        engine.means.reset()
        row: dict[str, Any] = {"epoch": epoch + 1, "step": state.step}
        row |= {f"train/{key}": value for key, value in means.items()}
        for name, split in (("val", self.splits.val), ("test", self.splits.test)):
            if split is not None:
                if name == "test":
                    record_opening(self.run, "train", self.splits.fingerprint["test"], epoch + 1)
                scores = engine.score(split)
                row |= {f"{name}/{key}": value for key, value in scores.items()}
        row["lr"] = engine.learning_rate(state.step - 1)
        if not is_finite(row):
            self.fail_diverged("the scores were not finite at the end of the epoch", state.step - 1)
        # Not every run is scored, and the weights that are scored may be an average of others.
        self.stop_if_weights_diverged()
        elapsed = time.monotonic() - self.epoch_begun
        row |= {"seconds": elapsed, "images_per_second": pictures / elapsed}
        better = self.is_better(row)
        if better:
            state.best = row
        self.log.append(row)
        state.log_size = self.log.size
        self.save(best_state(engine.evaluated, self.config, self.splits, row) if better else None)
        self.progress.epoch(row, better and self.config.train.select != "last")

    def is_better(self, row: dict[str, Any]) -> bool:
        """Tell whether this epoch beats the best so far; ties keep the earlier one."""
        select, best = self.config.train.select, self.state.best
        return select == "last" or best is None or row[f"{select}/top1"] > best[f"{select}/top1"]

    def save_between(self) -> None:
        """Save within an epoch, unless the weights are past saving."""
        self.stop_if_diverged()
        self.stop_if_weights_diverged()
        self.save()

    def save(self, best: dict[str, Any] | None = None) -> None:
        """Have `last.pt` written, all that the rest of the run depends on; before it, `best.pt` if given."""
        reached = replace(self.state, seconds=self.seconds(), peak_memory_bytes=self.peak_memory())
        state = {
            **reached.to_plain(),
            "engine": self.engine.state_dict(),
            "precision": str(self.engine.precision),
            "fingerprint": self.splits.fingerprint,
        }
        self.saver.submit(state, best)
        self.last_save = time.monotonic()

    def leave(self, where: str) -> NoReturn:
        """Stop, as asked, when all that was saved is on the disk."""
        self.saver.flush()
        self.asked.raise_interrupted(self.run, where)

    def seconds(self) -> float:
        return self.state.seconds + time.monotonic() - self.begun

    def peak_memory(self) -> int:
        return max(self.state.peak_memory_bytes, peak_memory(self.engine.device))

    def conclude(self) -> Summary:
        """Score the chosen epoch on clean pictures and write `summary.json`: the run is finished."""
        config, engine, best, activations = self.config, self.engine, self.state.best, self.job.activations
        assert best is not None, "a run has at least one epoch"
        self.saver.flush()
        chosen = read_best(self.run)
        assert chosen["row"]["epoch"] == best["epoch"], "best.pt is the chosen epoch's"
        engine.evaluated.load_state_dict(chosen["model"])
        epochs_run = self.state.step // engine.plan.steps_per_epoch
        known = score_finished(config, engine, self.splits, best=best, epochs_run=epochs_run)
        seconds = self.seconds()
        if self.state.distillation:
            known["distillation"] = self.state.distillation
        summary = Summary(
            recipe=self.run.recipe,
            **known,
            seconds=seconds,
            images_per_second=epochs_run * engine.plan.samples_per_epoch / seconds,
            macs=self.job.macs,
            peak_memory_bytes=self.peak_memory(),
            warnings=[*self.job.remarks.warnings],
        )
        self.run.write_summary(summary)
        self.progress.stop()
        for line in activations.lines() if activations is not None else ():
            self.progress.note(line)
        self.progress.finish(summary, str(self.run))
        return summary
