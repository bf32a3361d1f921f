"""`train(config, run)`: the loop. There is one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NoReturn

from cifarlab.config import Config
from cifarlab.core import files
from cifarlab.core.device import describe_hardware, peak_memory, pick_device, reset_peak_memory
from cifarlab.core.errors import ConfigError, Failure
from cifarlab.data.cache import Stopped
from cifarlab.engine.means import is_finite
from cifarlab.runs.environment import describe_environment
from cifarlab.runs.folder import Run
from cifarlab.runs.ledger import record_opening
from cifarlab.runs.log import RunLog
from cifarlab.runs.signals import StopRequest
from cifarlab.runs.summary import summarise
from cifarlab.teachers import describe_teacher, examine, teacher_warnings
from cifarlab.training.memory import out_of_memory_explained
from cifarlab.training.progress import TrainingProgress
from cifarlab.training.resume import best_state, read_best, resume
from cifarlab.training.saver import Saver
from cifarlab.training.setup import Job, prepare, refuse_to_remove_a_source

# An epoch that takes longer than this saves in between, too.
SECONDS_BETWEEN_SAVES = 600.0
# How often a terminal's line changes, and a loss that is not finite is noticed, where looking costs nothing
# (the CPU).
SECONDS_BETWEEN_LOOKS = 1.0


def train(
    config: Config,
    run: Run,
    progress: TrainingProgress | None = None,
    fresh: bool = False,
    warnings: Sequence[str] = (),
) -> dict[str, Any]:
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
        job = replace(job, warnings=(*job.warnings, *warnings))
        if fresh:
            refuse_to_remove_a_source(config, run.folder, job.teacher)
            run.start_over()
        return _Training(config, run, job, progress).run_to_the_end()


def _finished(config: Config, run: Run) -> dict[str, Any] | None:
    """The run's summary if it is done. Raises ConfigError if it is a run of another configuration."""
    run.refuse_other(config)
    return run.summary()


def _say_finished(run: Run, summary: dict[str, Any], progress: TrainingProgress) -> dict[str, Any]:
    progress.note(f"{run} is finished; `--fresh` starts it over")
    progress.finish(summary, str(run))
    return summary


class _Training:
    """One sitting of a run, and the state that outlives it."""

    def __init__(self, config: Config, run: Run, job: Job, progress: TrainingProgress):
        self.config, self.run, self.progress = config, run, progress
        self.splits, self.engine, self.teacher = job.splits, job.engine, job.teacher
        self.activations = job.activations
        self.notes, self.warnings = job.notes, [*job.warnings]
        self.macs = job.macs
        self.step = 0
        self.best: dict[str, Any] | None = None
        self.distillation: dict[str, Any] | None = None
        self.log_size = 0
        self.seconds_before, self.peak_before = 0.0, 0
        self.begun = self.last_save = self.epoch_begun = time.monotonic()
        self.first_picture = 0

    def run_to_the_end(self) -> dict[str, Any]:
        plan, epochs = self.engine.plan, self.config.train.last_epoch
        self.resume()
        self.meet_teacher()
        if self.activations is not None:
            self.notes += (self.activations.announce(),)
        for line in self.notes:
            self.progress.note(line)
        for line in self.warnings:
            self.progress.warn(line)
        self.run.write_config(self.config)
        self.write_env()
        self.log = RunLog(self.run.folder, self.log_size)
        done = self.step // plan.steps_per_epoch
        self.progress.start(epochs, done, plan.steps_per_epoch, self.config.train.select)
        try:
            with (
                StopRequest() as asked,
                Saver(self.run.best_path, self.run.last_path, self.engine.device) as self.saver,
            ):
                for epoch in range(done, epochs):
                    if self.is_out_of_patience(epoch):
                        break
                    self.train_epoch(epoch, asked)
                    self.close_epoch(epoch)
                    if asked.signal is not None:
                        self.leave(asked, f"the end of epoch {epoch + 1}")
                summary = self.conclude()
                if asked.signal is not None:
                    asked.raise_interrupted(self.run, "its end, finished")
                return summary
        finally:
            self.progress.stop()

    def resume(self) -> None:
        """Go on from `last.pt`, if the run has one. Raises ConfigError where the data are not the same."""
        state, warnings = resume(self.run, self.engine, self.splits)
        self.warnings += warnings
        if not state:
            return
        self.step, self.best, self.log_size = state["step"], state["best"], state["log_size"]
        self.seconds_before, self.peak_before = state["seconds"], state["peak_memory_bytes"]
        self.distillation = state.get("distillation")
        epochs, steps = divmod(self.step, self.engine.plan.steps_per_epoch)
        where = f"epoch {epochs + 1}, step {steps + 1}" if steps else f"epoch {epochs + 1}"
        if epochs < self.config.train.last_epoch and not self.is_out_of_patience(epochs):
            self.progress.note(f"{self.run}: goes on at {where}")

    def meet_teacher(self) -> None:
        """Calibrate and examine the teacher; later sittings go on with what the first one found."""
        if self.teacher is None:
            return
        if self.distillation is None:
            self.progress.note("asking the teacher what it has to say")
            self.distillation = {**examine(self.teacher, self.engine, self.splits), "cache_seconds": 0.0}
        known = [teacher["sha256"] for teacher in self.distillation["teachers"]]
        if known != [member.sha256 for member in self.teacher.members]:
            raise ConfigError(
                f"the teacher has changed since {self.run} began; bring the old one back, or start over with "
                "`--fresh`", ("teacher", "run"))  # fmt: skip
        self.teacher.temperatures = self.distillation["temperatures"]
        self.notes += tuple(describe_teacher(self.distillation))
        self.warnings += teacher_warnings(self.distillation, self.config)

    def begin_epoch(self, epoch: int, asked: StopRequest) -> None:
        """Make ready what is kept: activations of the frozen part, the teacher's answers."""
        try:
            if self.activations is not None:
                for line in self.activations.begin(epoch, lambda: asked.signal is not None):
                    self.progress.note(line)
            begun = time.monotonic()
            said = self.engine.begin(epoch, lambda: asked.signal is not None)
        except Stopped:
            self.save_between()
            self.leave(asked, f"the beginning of epoch {epoch + 1}")
        if said and self.distillation is not None:
            self.distillation["cache_seconds"] += time.monotonic() - begun
            self.progress.note(said)

    def train_epoch(self, epoch: int, asked: StopRequest) -> None:
        """Train on what is left of an epoch."""
        engine, plan = self.engine, self.engine.plan
        self.begin_epoch(epoch, asked)
        order = engine.order(epoch)
        first = self.step - epoch * plan.steps_per_epoch
        self.first_picture = plan.samples_before(first)
        engine.model.train()
        self.epoch_begun = last_look = time.monotonic()
        for step in range(first, plan.steps_per_epoch):
            engine.step(order, epoch, self.step)
            self.step += 1
            if step + 1 == plan.steps_per_epoch:
                # A checkpoint that vouches for a whole epoch must hold its scores: `close_epoch` writes it.
                break
            if asked.signal is not None:
                self.save_between()
                self.leave(asked, f"epoch {epoch + 1}, step {step + 1}")
            now = time.monotonic()
            if now - last_look > SECONDS_BETWEEN_LOOKS:
                last_look = now
                pace = (step + 1 - first) * plan.step_size / (now - self.epoch_begun)
                # On a GPU a look would wait for the device: there the epoch's end is soon enough.
                means = engine.means.read() if engine.device.type == "cpu" else {}
                if engine.device.type == "cpu":
                    self.stop_if_diverged()
                self.progress.step(epoch, step + 1, means, engine.learning_rate(self.step), pace)
            if now - self.last_save > SECONDS_BETWEEN_SAVES:
                self.save_between()

    def stop_if_diverged(self) -> None:
        """Raise Failure if a loss was not finite. The checkpoint stays: it is older than the bad step."""
        step = self.engine.means.first_bad_step()
        if step is not None:
            self.fail_diverged(f"the loss was not finite at step {step + 1}", step)

    def stop_if_weights_diverged(self) -> None:
        """Raise Failure if the last step's update was not finite, which its loss does not tell."""
        if not self.engine.has_finite_weights():
            self.fail_diverged("the weights were not finite", self.step - 1)

    def fail_diverged(self, what: str, step: int) -> NoReturn:
        self.saver.wait()  # What it may have to say of the disk matters less.
        kept = f"; {self.run.last_path} is from before" if self.run.last_path.exists() else ""
        raise Failure(
            f"{what} (epoch {step // self.engine.plan.steps_per_epoch + 1}, learning rate "
            f"{self.engine.learning_rate(step):.2e}); try a lower optim.lr, train.grad_clip=1, "
            f"a longer warm-up (optim.schedule.warmup=0.05) or train.precision=float32, "
            f"with another --name or --fresh{kept}"
        )

    def close_epoch(self, epoch: int) -> None:
        """Evaluate, log, keep the best, save."""
        engine = self.engine
        self.stop_if_diverged()
        engine.finish(epoch)
        means = engine.means.read()
        engine.means.reset()
        row: dict[str, Any] = {"epoch": epoch + 1, "step": self.step}
        row |= {f"train/{key}": value for key, value in means.items()}
        for name, split in (("val", self.splits.val), ("test", self.splits.test)):
            if split is not None:
                if name == "test":
                    record_opening(self.run, "train", self.splits.fingerprint["test"], epoch + 1)
                scores = engine.score(split)
                row |= {f"{name}/{key}": value for key, value in scores.items()}
        row["lr"] = engine.learning_rate(self.step - 1)
        if not is_finite(row):
            self.fail_diverged("the scores were not finite at the end of the epoch", self.step - 1)
        # Not every run is scored, and the weights that are scored may be an average of others.
        self.stop_if_weights_diverged()
        elapsed = time.monotonic() - self.epoch_begun
        pictures = engine.plan.samples_per_epoch - self.first_picture
        row |= {"seconds": elapsed, "images_per_second": pictures / elapsed}
        better = self.is_better(row)
        if better:
            self.best = row
        self.log.append(row)
        self.log_size = self.log.size
        self.save(best_state(engine.evaluated, self.config, self.splits, row) if better else None)
        self.progress.epoch(row, better and self.config.train.select != "last")

    def is_better(self, row: dict[str, Any]) -> bool:
        """Whether the epoch is the one to keep, so far; of equals the first."""
        select = self.config.train.select
        return select == "last" or self.best is None or row[f"{select}/top1"] > self.best[f"{select}/top1"]

    def is_out_of_patience(self, done: int) -> bool:
        """Whether none of the last `train.patience` of `done` epochs was the best so far."""
        patience = self.config.train.patience
        return patience is not None and self.best is not None and done - self.best["epoch"] >= patience

    def save_between(self) -> None:
        """Save within an epoch, unless the weights are past saving."""
        self.stop_if_diverged()
        self.stop_if_weights_diverged()
        self.save()

    def save(self, best: dict[str, Any] | None = None) -> None:
        """Have `last.pt` written, all that the rest of the run depends on; before it, `best.pt` if given."""
        state = {
            "engine": self.engine.state_dict(),
            "step": self.step,
            "best": self.best,
            "log_size": self.log_size,
            "seconds": self.seconds(),
            "peak_memory_bytes": self.peak_memory(),
            "precision": str(self.engine.precision),
            "fingerprint": self.splits.fingerprint,
            "distillation": self.distillation,
        }
        self.saver.submit(state, best)
        self.last_save = time.monotonic()

    def leave(self, asked: StopRequest, where: str) -> NoReturn:
        """End the sitting, as asked, when all that was saved is on the disk."""
        self.saver.flush()
        asked.raise_interrupted(self.run, where)

    def seconds(self) -> float:
        return self.seconds_before + time.monotonic() - self.begun

    def peak_memory(self) -> int:
        return max(self.peak_before, peak_memory(self.engine.device))

    def write_env(self) -> None:
        env = describe_environment(describe_hardware(self.engine.device))
        env |= {
            "name": self.run.name,
            "recipes": [*self.run.recipe_files],
            "precision": str(self.engine.precision),
            "data_fingerprint": self.splits.fingerprint,
            "weights": [report.record() for report in self.engine.model.loaded],
            "notes": [*self.notes],
            "warnings": self.warnings,
        }
        self.run.write_env(env)

    def conclude(self) -> dict[str, Any]:
        """Score the chosen epoch on clean pictures and write `summary.json`: the run is finished."""
        assert self.best is not None, "a run has at least one epoch"
        config, engine, best = self.config, self.engine, self.best
        self.saver.flush()
        chosen = read_best(self.run)
        assert chosen["row"]["epoch"] == best["epoch"], "best.pt is the chosen epoch's"
        engine.evaluated.load_state_dict(chosen["model"])
        epochs_run = self.step // engine.plan.steps_per_epoch
        known = summarise(config, engine, self.splits, best, epochs_run)
        seconds = self.seconds()
        summary = {
            "recipe": self.run.recipe,
            **known,
            "seconds": seconds,
            "images_per_second": epochs_run * engine.plan.samples_per_epoch / seconds,
            "macs": self.macs,
            "peak_memory_bytes": self.peak_memory(),
            "warnings": self.warnings,
        }
        if self.distillation:
            summary["distillation"] = self.distillation
        files.write_json(self.run.summary_path, summary)
        self.progress.stop()
        for line in self.activations.lines() if self.activations is not None else ():
            self.progress.note(line)
        self.progress.finish(summary, str(self.run))
        return summary
