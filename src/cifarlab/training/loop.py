"""The training loop, the only one in the package: `train_run`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import NoReturn

from cifarlab.config import Config
from cifarlab.core.device import peak_memory, pick_device, reset_peak_memory
from cifarlab.core.errors import Failure
from cifarlab.data.cache import Stopped
from cifarlab.engine.running_means import is_finite
from cifarlab.runs.folder import Run
from cifarlab.runs.ledger import record_opening
from cifarlab.runs.log import EpochRow, RunLog
from cifarlab.runs.signals import StopRequest
from cifarlab.runs.summary import Summary
from cifarlab.training.memory import out_of_memory_explained
from cifarlab.training.progress import TrainingProgress
from cifarlab.training.resume import best_state, read_best
from cifarlab.training.saver import Saver
from cifarlab.training.setup import Job, prepare, refuse_to_remove_a_source
from cifarlab.training.start import start
from cifarlab.training.state import BestState, LastState, LoopState
from cifarlab.training.summarise import Cost, summarise

# Within longer epochs, checkpoints are saved at this interval.
SECONDS_BETWEEN_SAVES = 600.0
# How often the terminal's line is updated. On a CPU the loss is checked for NaN and infinity as often; on a
# GPU that would wait for the device.
SECONDS_BETWEEN_LOOKS = 1.0


def train_run(
    config: Config,
    run: Run,
    *,
    progress: TrainingProgress | None = None,
    fresh: bool = False,
    warnings: Sequence[str] = (),
) -> Summary:
    """Train a run to its end, from its start or last checkpoint.

    A finished run is not trained again; its summary is returned.

    Args:
        config: The configuration.
        run: The run. Its folder need not exist.
        progress: Output for the user. Default: nothing is printed.
        fresh: Remove the files of an earlier run in the folder and start from epoch 1.
        warnings: Further warnings to print and record, one line each.

    Returns:
        The summary of the run.

    Raises:
        ConfigError: The user made a mistake. A folder that did not exist is not left behind.
        Interrupted: A signal stopped the run. A checkpoint was saved.
        Failure: Training cannot continue, e.g. because the loss is not finite or memory ran out.
    """
    progress = progress or TrainingProgress(quiet=True)
    if not fresh and (summary := _finished(config, run)):
        return _say_finished(run, summary, progress)
    with out_of_memory_explained(config), run.locked():
        # Check again: before we got the lock, another process may have started, finished or replaced the run.
        if not fresh and (summary := _finished(config, run)):
            return _say_finished(run, summary, progress)
        progress.note(f"{run}: reading {config.data.dataset.name}, building the model")
        # This process may have trained other runs before, with a higher peak.
        reset_peak_memory(pick_device(config.train.device))
        # If a checkpoint will be loaded, initial weights are not needed.
        job = prepare(config, initial=fresh or not run.last_path.exists(), runs=run.runs)
        job.remarks.warn(*warnings)
        if fresh:
            refuse_to_remove_a_source(config, run.folder, job.teacher)
            run.start_over()
        state = start(config, run, job, progress)
        return _Training(config, run, job, state, progress).run_to_the_end()


def _finished(config: Config, run: Run) -> Summary | None:
    """Return the summary, or None if the run is not finished.

    Raises:
        ConfigError: The folder holds a run of another configuration.
    """
    run.refuse_other(config)
    return run.summary()


def _say_finished(run: Run, summary: Summary, progress: TrainingProgress) -> Summary:
    progress.note(f"{run} is finished; `--fresh` starts it over")
    progress.finish(summary, str(run))
    return summary


class _Training:
    """A run in training, from its first epoch to its summary."""

    def __init__(self, config: Config, run: Run, job: Job, state: LoopState, progress: TrainingProgress):
        self.config, self.run, self.job, self.state, self.progress = config, run, job, state, progress
        self.engine, self.splits = job.engine, job.splits
        self.log = RunLog(run.folder, size=state.log_size)
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
        """Tell whether a signal has asked the run to stop."""
        return self.asked.signal is not None

    def begin_epoch(self, epoch: int) -> None:
        """Load or compute the epoch's cached activations and teacher outputs."""
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
        """Train the remaining steps of an epoch. Return the number of pictures in them."""
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
                # `close_epoch` saves next: a checkpoint at an epoch's end must include its scores.
                break
            if self.is_asked():
                self.save_between()
                self.leave(f"epoch {epoch + 1}, step {step + 1}")
            now = time.monotonic()
            if now - last_look > SECONDS_BETWEEN_LOOKS:
                last_look = now
                pace = (step + 1 - first) * plan.step_size / (now - self.epoch_begun)
                # Not on a GPU: reading the means would wait for the device.
                means = engine.means.read() if engine.device.type == "cpu" else {}
                if engine.device.type == "cpu":
                    self.stop_if_diverged()
                self.progress.step(epoch, step + 1, means, engine.learning_rate(state.step), pace)
            if now - self.last_save > SECONDS_BETWEEN_SAVES:
                self.save_between()
        return plan.samples_per_epoch - plan.samples_before(first)

    def stop_if_diverged(self) -> None:
        """Raise Failure if a loss was not finite in this epoch."""
        step = self.engine.means.first_bad_step()
        if step is not None:
            self.fail_diverged(f"the loss was not finite at step {step + 1}", step)

    def stop_if_weights_diverged(self) -> None:
        """Raise Failure if the weights are not finite.

        The check of the losses does not see the last update, which came after the last loss.
        """
        if not self.engine.has_finite_weights():
            self.fail_diverged("the weights were not finite", self.state.step - 1)

    def fail_diverged(self, what: str, step: int) -> NoReturn:
        self.saver.wait()  # Not `flush`: an error of the disk matters less than this one.
        kept = f"; {self.run.last_path} is from before" if self.run.last_path.exists() else ""
        raise Failure(
            f"{what} (epoch {step // self.engine.plan.steps_per_epoch + 1}, learning rate "
            f"{self.engine.learning_rate(step):.2e}); try a lower optim.lr, train.grad_clip=1, "
            f"a longer warm-up (optim.schedule.warmup=0.05) or train.precision=float32, "
            f"with another --name or --fresh{kept}"
        )

    def close_epoch(self, epoch: int, pictures: int) -> None:
        """Evaluate, log and save an epoch.

        Args:
            epoch: Index of the epoch, from 0.
            pictures: Number of pictures that `train_epoch` has trained on.
        """
        engine, state = self.engine, self.state
        self.stop_if_diverged()
        engine.finish(epoch)
        means = engine.means.read()
        engine.means.reset()
        row: EpochRow = {"epoch": epoch + 1, "step": state.step}
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
        # Scores do not show it: a run may have no evaluation, or evaluate an average of the weights.
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

    def is_better(self, row: EpochRow) -> bool:
        """Tell whether an epoch beats the best so far.

        The score must be higher. With `train.select=last` each epoch beats those before it.
        """
        select, best = self.config.train.select, self.state.best
        return select == "last" or best is None or row[f"{select}/top1"] > best[f"{select}/top1"]

    def save_between(self) -> None:
        """Save `last.pt` within an epoch. Raise Failure if loss or weights are not finite."""
        self.stop_if_diverged()
        self.stop_if_weights_diverged()
        self.save()

    def save(self, best: BestState | None = None) -> None:
        """Submit `last.pt` and, if `best` is given, `best.pt` to the saver."""
        reached = replace(self.state, seconds=self.seconds(), peak_memory_bytes=self.peak_memory())
        state = LastState(
            **reached.to_plain(),
            engine=self.engine.state_dict(),
            precision=str(self.engine.precision),
            fingerprint=self.splits.fingerprint,
        )
        self.saver.submit(state, best)
        self.last_save = time.monotonic()

    def leave(self, where: str) -> NoReturn:
        """Wait until all checkpoints are on disk, then raise Interrupted naming `where`."""
        self.saver.flush()
        self.asked.raise_interrupted(self.run, where)

    def seconds(self) -> float:
        return self.state.seconds + time.monotonic() - self.begun

    def peak_memory(self) -> int:
        return max(self.state.peak_memory_bytes, peak_memory(self.engine.device))

    def cost(self) -> Cost:
        return Cost(self.seconds(), self.job.macs, self.peak_memory())

    def conclude(self) -> Summary:
        """Score the model in `best.pt` on unaugmented training pictures; write `summary.json`.

        `best.pt` has the weights of the chosen epoch (`train.select`).
        """
        config, engine, best, activations = self.config, self.engine, self.state.best, self.job.activations
        assert best is not None, "a run has at least one epoch"
        self.saver.flush()
        chosen = read_best(self.run)
        assert chosen["row"]["epoch"] == best["epoch"], "best.pt must hold the chosen epoch"
        engine.evaluated.load_state_dict(chosen["model"])
        epochs_run = self.state.step // engine.plan.steps_per_epoch
        summary = summarise(config, engine, self.splits, best=best, epochs_run=epochs_run, cost=self.cost)
        summary = summary.changed(recipe=self.run.recipe, warnings=[*self.job.remarks.warnings])
        if self.state.distillation:
            summary = summary.changed(distillation=self.state.distillation)
        self.run.write_summary(summary)
        self.progress.stop()
        for line in activations.lines() if activations is not None else ():
            self.progress.note(line)
        self.progress.finish(summary, str(self.run))
        return summary
