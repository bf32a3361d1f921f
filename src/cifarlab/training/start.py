"""Start of a run: resumption, evaluation of the teacher, `env.json`."""

from __future__ import annotations

from dataclasses import asdict

from cifarlab.config import Config
from cifarlab.core.device import describe_hardware
from cifarlab.core.errors import ConfigError
from cifarlab.engine.step import Engine
from cifarlab.runs.environment import Environment, describe_environment
from cifarlab.runs.folder import Run
from cifarlab.runs.teacher_report import TeacherReport
from cifarlab.teachers import Teacher, describe_teacher, examine, teacher_warnings
from cifarlab.training.progress import TrainingProgress
from cifarlab.training.resume import resume
from cifarlab.training.setup import Job
from cifarlab.training.state import LoopState


def start(config: Config, run: Run, job: Job, progress: TrainingProgress) -> LoopState:
    """Load the last checkpoint and evaluate the teacher, if there are any.

    Notes and warnings are printed. The configuration and the environment are written to the run's folder.

    Returns:
        The state of the training loop from which to continue.

    Raises:
        ConfigError: A checkpoint is damaged, or the data or the teacher have changed since the run started.
    """
    remarks = job.remarks
    state, warnings = resume(run, job.engine, job.splits)
    remarks.warn(*warnings)
    if state is not None:
        _print_place(config, run, job.engine, state, progress)
    state = state or LoopState()
    if job.teacher is not None:
        state.distillation = _examined(run, job, job.teacher, state.distillation, progress)
        job.teacher.temperatures = state.distillation.temperatures
        remarks.note(*describe_teacher(state.distillation))
        remarks.warn(*teacher_warnings(state.distillation, config))
    if job.activations is not None:
        remarks.note(job.activations.announce())
    for line in remarks.notes:
        progress.note(line)
    for line in remarks.warnings:
        progress.warn(line)
    run.write_config(config)
    run.write_env(_environment(run, job))
    return state


def _print_place(
    config: Config, run: Run, engine: Engine, state: LoopState, progress: TrainingProgress
) -> None:
    """Print where the run resumes, unless nothing is left to train."""
    epochs, steps = divmod(state.step, engine.plan.steps_per_epoch)
    where = f"epoch {epochs + 1}, step {steps + 1}" if steps else f"epoch {epochs + 1}"
    if epochs < config.train.last_epoch and not state.is_out_of_patience(config.train.patience, epochs):
        progress.note(f"{run}: resuming at {where}")


def _examined(
    run: Run, job: Job, teacher: Teacher, known: TeacherReport | None, progress: TrainingProgress
) -> TeacherReport:
    """Calibrate and evaluate the teacher. `known` has the results of a resumed run, which are reused."""
    if known is None:
        progress.note("evaluating the teacher")
        known = examine(teacher, job.engine, job.splits)
    if [each.sha256 for each in known.teachers] != [member.sha256 for member in teacher.members]:
        raise ConfigError(
            f"the teacher has changed since {run} started; restore the old one, or start over with `--fresh`",
            ("teacher", "run"),
        )
    return known


def _environment(run: Run, job: Job) -> Environment:
    """Return the content of `env.json`."""
    engine = job.engine
    return describe_environment(describe_hardware(engine.device)).changed(
        name=run.name,
        recipes=[*run.recipe_files],
        precision=str(engine.precision),
        data_fingerprint=job.splits.fingerprint,
        weights=[asdict(report) for report in engine.model.loaded],
        notes=[*job.remarks.notes],
        warnings=[*job.remarks.warnings],
    )
