"""The check of settings that change nothing, by the configuration alone."""

from __future__ import annotations

from collections.abc import Iterator

from cifarlab.config import Config
from cifarlab.doctor.checks import Reasons, check
from cifarlab.doctor.plan_facts import Planned


@check("static", "warning", "remove the setting, or change what leaves it idle")
def no_effect(case: Planned) -> Reasons:
    """A setting changes nothing as the rest stands, by the configuration alone."""
    config, plan, steps = case.config, case.plan, case.run_steps
    for section, specs in (("augment", config.data.augment), ("mix", config.data.mix)):
        yield from (
            f"data.{section}.{label} has p 0: it meets no picture" for label, s in specs.items() if s.p == 0
        )
    weights = {label: spec.weight for label, spec in config.objective.items()}
    if any(weights.values()):
        yield from (f"objective.{label} has weight 0" for label, weight in weights.items() if weight == 0)
    if (patience := config.train.patience) is not None and patience >= config.train.last_epoch - 1:
        yield f"train.patience={patience} is never lost in {config.train.last_epoch} epochs"
    if config.optim.decay_norms and not config.optim.weight_decay:
        yield "optim.decay_norms has no effect: optim.weight_decay is 0"
    if plan is not None and steps is not None:
        yield from _too_long(config, plan.total_steps, steps)


def _too_long(config: Config, total_steps: int, steps: int) -> Iterator[str]:
    """What needs more steps than the run has.

    total_steps: those that schedules span. steps: those that the run takes.
    """
    warmup = config.optim.schedule.kwargs().get("warmup", 0)
    if 0 < warmup * total_steps < 1:
        yield f"optim.schedule.warmup={warmup:g} is less than a step of {total_steps}"
    lookahead = config.optim.lookahead
    if lookahead is not None and lookahead.steps >= steps:
        yield f"optim.lookahead.steps={lookahead.steps} is never reached in {steps} steps"
    average = config.train.average
    options = average.kwargs() if average else {}
    if options.get("warmup") and options.get("decay", 0) > 1 - 1 / steps:
        decay = options["decay"]
        yield f"train.average.decay={decay:g} looks back over more than all {steps} steps"
    if average is not None and average.name == "swa":
        epochs, last = config.train.epochs, config.train.last_epoch
        counted = sum(epoch / epochs >= options["start"] for epoch in range(1, last + 1))
        if counted < 2:
            found = (
                "one epoch only: the last one"
                if counted
                else f"nothing: train.stop={last} is before its start"
            )
            yield f"train.average=swa averages {found}"
