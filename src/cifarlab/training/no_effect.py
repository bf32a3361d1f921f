"""Search for options that have no effect, given the rest of the configuration."""

from __future__ import annotations

import math
from collections.abc import Iterator

from cifarlab.config import Config
from cifarlab.engine.batches import num_views
from cifarlab.engine.plan import Plan
from cifarlab.models.classifier import Classifier
from cifarlab.objectives.classification import least_scale


def without_effect_as_planned(config: Config, plan: Plan | None, steps: int | None) -> Iterator[str]:
    """Yield a message for each option without effect.

    Options whose effect depends on the model or the data set are left to `without_effect_on`.

    Args:
        config: The configuration.
        plan: Division of the epochs into steps. None if the number of pictures is not known.
        steps: Number of steps of the run, up to `train.stop`. None if it is not known.
    """
    for section, specs in (("augment", config.data.augment), ("mix", config.data.mix)):
        yield from (
            f"data.{section}.{label} has p=0: it is never applied" for label, s in specs.items() if s.p == 0
        )
    weights = {label: spec.weight for label, spec in config.objective.items()}
    if any(weights.values()):
        yield from (f"objective.{label} has weight 0" for label, weight in weights.items() if weight == 0)
    if (patience := config.train.patience) is not None and patience >= config.train.last_epoch - 1:
        yield f"train.patience={patience} cannot end a run of {config.train.last_epoch} epochs"
    if config.optim.decay_norms and not config.optim.weight_decay:
        yield "optim.decay_norms has no effect: optim.weight_decay is 0"
    if plan is not None and steps is not None:
        yield from _too_long(config, plan.total_steps, steps)


def _too_long(config: Config, total_steps: int, steps: int) -> Iterator[str]:
    """Yield a message for each option that needs a longer run.

    Args:
        config: The configuration.
        total_steps: Number of steps of `train.epochs`, which schedules span.
        steps: Number of steps of the run, which `train.stop` may end earlier.
    """
    warmup = config.optim.schedule.kwargs().get("warmup", 0)
    if 0 < warmup * total_steps < 1:
        yield f"optim.schedule.warmup={warmup:g} is less than one of {total_steps} steps"
    lookahead = config.optim.lookahead
    if lookahead is not None and lookahead.steps >= steps:
        yield f"optim.lookahead.steps={lookahead.steps} is never reached in {steps} steps"
    average = config.train.average
    options = average.kwargs() if average else {}
    if options.get("warmup") and options.get("decay", 0) > 1 - 1 / steps:
        decay = options["decay"]
        yield f"train.average.decay={decay:g} averages over more steps than the run has, {steps}"
    if average is not None and average.name == "swa":
        epochs, last = config.train.epochs, config.train.last_epoch
        counted = sum(epoch / epochs >= options["start"] for epoch in range(1, last + 1))
        if counted < 2:
            found = (
                "only one epoch, the last one"
                if counted
                else f"nothing: train.stop={last} is before its start"
            )
            yield f"train.average=swa averages {found}"


def without_effect_on(config: Config, model: Classifier) -> list[str]:
    """Return a message for each option without effect on this model."""
    data, name = config.data, config.data.dataset.name
    norms_by_choice = {"none": config.model.freeze, "frozen": True, "backbone": model.norms_in_eval}
    scale = data.multi_scale
    head, losses = config.model.head, config.objective.values()
    reads_logits = any(loss.weight and loss.part.traits.reads_logits for loss in losses)
    found = {
        "data.multi_scale": scale is not None and scale.sizes == (data.image_size,),
        "data.multi_scale.per": scale is not None and len(scale.sizes) == 1 and scale.per != "batch",
        "data.freeze_views": data.freeze_views and not (data.augment or data.mix),
        "data.views": data.views is not None and num_views(config) != data.views,
        "data.skip_broken": data.skip_broken and name != "folder",
        "data.root": data.root is not None and name == "synthetic",
        "teacher.run": config.teacher is not None and not config.teacher_outputs,
        # The dropout acts on the logits only: the embedding is taken before it.
        "model.head.dropout": head.name == "linear" and head.kwargs()["dropout"] > 0 and not reads_logits,
        "model.batch_norm_eval": not norms_by_choice[config.model.batch_norm_eval],
        "optim.layer_decay": config.optim.layer_decay < 1
        and not any(parameter.requires_grad for parameter in model.backbone.parameters()),
    }
    return [f"{key} has no effect here" for key, is_idle in found.items() if is_idle]


def low_scale(config: Config, num_classes: int) -> list[str]:
    """Return a message if a margin loss has too low a scale.

    It is too low if the softmax of scaled cosines cannot give any class probability 0.99. The list is empty
    otherwise.
    """
    scale, least = config.model.head.kwargs().get("scale"), least_scale(num_classes)
    reads_it = any(s.weight and s.part.traits.reads_scale for s in config.objective.values())
    if not reads_it or scale is None or scale >= least:
        return []
    takes = f"the least scale for that is {math.ceil(10 * least) / 10}"
    return [f"model.head.scale={scale:g}: no class of {num_classes} can reach probability 0.99; {takes}"]
