"""Checks that need the configuration alone."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping

from cifarlab.config import Config, recipes
from cifarlab.core.errors import ConfigError
from cifarlab.core.registry import Spec
from cifarlab.doctor.check_registry import CHECKS, Reasons, check
from cifarlab.doctor.plan_facts import Planned, planned
from cifarlab.engine.batches import num_views
from cifarlab.experiments.tutorial import find_setting
from cifarlab.models.classifier import NORMALIZATIONS
from cifarlab.runs.folder import Run
from cifarlab.teachers.diagnosis import NEARLY_UNIFORM
from cifarlab.training.no_effect import low_scale, without_effect_as_planned

# Weight decay that removes less than this share of the weights over the whole run is negligible.
_NO_DECAY = 0.05
# Allowed difference between our mean or deviation and that of the weights. Statistics of data sets of
# photographs differ by as much.
_SAME_STATISTICS = 0.06
_SGD_DECAY = 5e-4
_PHOTOGRAPHS = ("cifar100", "cifar10")


@check("static", "error", "give a loss a weight above 0")
def nothing_to_learn(case: Planned) -> Reasons:
    """Check that at least one loss has a weight above 0."""
    if all(spec.weight == 0 for spec in case.config.objective.values()):
        yield "every loss has weight 0: the model learns nothing"


@check("static", "warning", "set data.shuffle=true")
def no_shuffling(case: Planned) -> Reasons:
    """Check that training pictures are shuffled in each epoch."""
    plan = case.plan
    if not case.config.data.shuffle and (plan is None or plan.steps_per_epoch > 1):
        yield "every epoch shows the same batches in the same order"


@check("static", "warning", "set data.freeze_views=false, or data.views above 1")
def frozen_views(case: Planned) -> Reasons:
    """Check that epochs do not all show the same augmented copies."""
    data = case.config.data
    if (data.augment or data.mix) and num_views(case.config) == 1 and case.config.train.last_epoch > 1:
        yield "every epoch shows the same augmented copy of each picture: augmentation adds no variety"


@check(
    "static", "warning",
    "set optim.schedule=cosine (or one_cycle, linear, step), or average the weights: train.average=ema",
)  # fmt: skip
def lr_never_changes(case: Planned) -> Reasons:
    """Check that the learning rate falls or the weights are averaged."""
    rates = case.rates()
    after = rates[rates.index(max(rates)) :]
    # Averaging the last weights has the effect of a falling rate.
    if case.config.train.average is None and len(rates) > 1 and min(after) == max(rates):
        steps = f"{case.plan.total_steps:,} planned steps" if case.plan else "planned steps"
        yield f"the learning rate never falls from its peak, {max(rates):g}, within the {steps}"


@check("static", "warning", "set train.select=val and data.val=0.1, or train.select=last", told=True)
def chosen_on_test(case: Planned) -> Reasons:
    """Check that the reported epoch is not chosen by its test accuracy."""
    if case.config.train.select == "test":
        epochs = case.config.train.last_epoch
        yield f"the best of {epochs} scores on test is reported as the test score, which is optimistic"


@check("static", "warning", "set model.normalize=pretrained; with model.init, the value of that run")
def other_normalization(case: Planned) -> Reasons:
    """Check that pictures are normalised as the pretrained weights expect."""
    model = case.config.model
    if model.init:
        theirs = None
        with contextlib.suppress(ConfigError):  # Unknown for a standalone checkpoint or a damaged run.
            theirs = Run(model.init).plain_config()["model"].get("normalize")
        # All values but `none` give similar numbers for photographs.
        if theirs is not None and (theirs == "none") != (model.normalize == "none"):
            yield f"{model.init} was trained with model.normalize={theirs}, this run has {model.normalize}"
    elif getattr(model.backbone.options, "pretrained", False) and model.normalize in NORMALIZATIONS:
        import timm

        published = timm.get_pretrained_cfg(model.backbone.name)
        ours = [value for values in NORMALIZATIONS[model.normalize] for value in values]
        own = [*published.mean, *published.std] if published else ours
        if max(abs(a - b) for a, b in zip(ours, own, strict=True)) > _SAME_STATISTICS:
            mean, std = (", ".join(f"{value:g}" for value in values) for values in (own[:3], own[3:]))
            yield (
                f"the weights of {model.backbone.name} were trained with mean ({mean}), deviation ({std}); "
                f"this run has model.normalize={model.normalize}"
            )


@check("static", "note", "raise optim.weight_decay (AdamW: 0.05 is usual; SGD: 5e-4), or set it to 0")
def decay_negligible(case: Planned) -> Reasons:
    """Check that weight decay shrinks weights by over 5 % per run."""
    share, steps = case.decay_per_step(), case.run_steps
    if not share or steps is None:
        return
    rates = case.rates(taken=steps)
    lost = 1 - math.exp(-share * steps * sum(rates) / len(rates) / case.config.optim.lr)
    if lost < _NO_DECAY:
        decay = case.config.optim.weight_decay
        yield f"optim.weight_decay={decay:g} removes only {lost:.2%} of the weights in the whole run"


@check("static", "warning", "lower optim.weight_decay or optim.lr")
def decay_overwhelms(case: Planned) -> Reasons:
    """Check that weight decay shrinks weights by under 63 % per epoch."""
    share, plan, optim = case.decay_per_step(), case.plan, case.config.optim
    if share and plan is not None and share * min(plan.steps_per_epoch, plan.total_steps) > 1:
        left = math.exp(-share * plan.steps_per_epoch)
        yield (
            f"optim.weight_decay={optim.weight_decay:g} at optim.lr={optim.lr:g} leaves {left:.1%} of a "
            f"weight after one epoch ({plan.steps_per_epoch} steps)"
        )


@check("static", "note", "set optim.decay_norms=false")
def norms_decayed(case: Planned) -> Reasons:
    """Check that weight decay leaves out norm layers and biases.

    SGD with a decay of up to 5e-4 has no finding, because decay on all parameters is usual there.
    """
    optim = case.config.optim
    # Published recipes with SGD decay norms and biases. The first README of google-research/sam calls that
    # critical for a WRN.
    is_usual = optim.optimizer.name == "sgd" and optim.weight_decay <= _SGD_DECAY
    if optim.decay_norms and optim.weight_decay and not is_usual:
        yield f"optim.weight_decay={optim.weight_decay:g} acts on norms and biases, too"


@check("static", "warning", "raise model.head.scale: 30 or 64 are usual", told=True)
def margin_scale_low(case: Planned) -> Reasons:
    """Check that the scale of cosines allows a class probability of 0.99."""
    if case.num_classes:
        yield from low_scale(case.config, case.num_classes)


@check("static", "warning", "set the smoothing of cross_entropy to 0, or remove the margin")
def smoothing_against_margin(case: Planned) -> Reasons:
    """Check that label smoothing is not combined with a margin loss."""
    smoothed = [
        label
        for label, spec in case.config.objective.items()
        if spec.weight and spec.kwargs().get("smoothing")
    ]
    if smoothed and (margins := _margins(case.config)):
        yield f"objective.{smoothed[0]}.smoothing works against objective.{margins[0]} on the same cosines"


def _margins(config: Config) -> list[str]:
    """Return the keys in `objective` of losses on cosines (margin losses)."""
    return [
        label for label, spec in config.objective.items() if spec.weight and spec.part.traits.needs_cosines
    ]


@check("static", "warning", "set teacher.calibrate=true, or lower the temperature", told=True)
def teacher_near_uniform(case: Planned) -> Reasons:
    """Check that the loss's temperature leaves a confident teacher's probabilities non-uniform.

    Checked for teachers with a known recipe whose head computes cosines. A teacher's most confident output is
    compared with uniform probabilities.
    """
    teacher, config = case.config.teacher, case.config
    if teacher is None or teacher.calibrate or not case.num_classes:
        return
    known = [found for found in map(_config_of, teacher.run) if found is not None]
    scales = [t.model.head.kwargs()["scale"] for t in known if t.model.head.part.traits.cosines]
    for label, spec in config.objective.items():
        temperature = spec.kwargs().get("temperature")
        if not (spec.part.traits.needs_teacher and temperature and spec.weight and scales):
            continue
        nats, most = _from_uniform(max(scales) / temperature, case.num_classes), math.log(case.num_classes)
        if nats < NEARLY_UNIFORM * most:
            yield (
                f"objective.{label} learns almost nothing: cosines x {max(scales):g} at temperature "
                f"{temperature:g} are at most {nats:.3f} of {most:.3f} nats from uniform"
            )


def _config_of(name: str) -> Config | None:
    """Return the configuration of a recipe or a tutorial experiment, else None."""
    if name in recipes.recipe_names():
        return recipes.resolve(recipes.read_recipe(name))
    setting = find_setting(name)
    return setting.config() if setting is not None else None


def _from_uniform(gap: float, num_classes: int) -> float:
    """Return the KL divergence of a softmax from uniform, in nats.

    One logit is `gap` above all others, which are equal.
    """
    total = math.exp(gap) + num_classes - 1
    top, rest = math.exp(gap) / total, 1 / total
    return math.log(num_classes) + top * math.log(top) + (num_classes - 1) * rest * math.log(rest)


@check("static", "warning", "lower train.average.decay, or set train.average.warmup=true")
def average_keeps_the_start(case: Planned) -> Reasons:
    """Check that the averaged weights hardly contain the initial weights."""
    average, steps = case.config.train.average, case.run_steps
    options = average.kwargs() if average else {}
    if steps and "decay" in options and not options.get("warmup"):
        share = options["decay"] ** steps
        if share > _NO_DECAY:
            yield f"after {steps:,} steps the average still has {share:.0%} of the initial weights in it"


@check("static", "note", "add data.image_size to data.multi_scale.sizes")
def scored_at_another_size(case: Planned) -> Reasons:
    """Check that training includes the image size of evaluation."""
    data = case.config.data
    if data.multi_scale is not None and data.image_size not in data.train_sizes:
        yield f"the model is scored at {data.image_size} px and trained at {[*data.train_sizes]}"


@check("static", "note", "start with data.augment={crop: {padding: 4}, flip: {p: 0.5}}")
def no_augmentation(case: Planned) -> Reasons:
    """Check that training from scratch for 20 epochs or more uses augmentation.

    Mixing counts as augmentation.
    """
    data, model, epochs = case.config.data, case.config.model, case.config.train.last_epoch
    pretrained = model.init or getattr(model.backbone.options, "pretrained", False)
    if not (data.augment or data.mix or pretrained) and epochs >= 20:
        yield f"{epochs} epochs from scratch without augmentation: no crop, no flip"


@check("static", "note", "give one_of a p below 1, drop vertical_flip, lower rotate and hue")
def harsh_augmentation(case: Planned) -> Reasons:
    """Check that augmentation is not very strong in several ways."""
    data, found = case.config.data, []
    for label, spec, is_certain in _parts(data.augment):
        options = spec.kwargs()
        if is_certain and "choices" in options:
            found.append(f"{label} leaves no picture unchanged")
        if spec.name == "vertical_flip" and data.dataset.name in _PHOTOGRAPHS:
            found.append(f"{label} turns photographs upside down")
        if options.get("rotate", 0) >= 45:
            found.append(f"{label} rotates by up to {options['rotate']:g} degrees")
        if options.get("hue", 0) >= 0.5:
            found.append(f"{label} shifts hues by any amount")
    if len(found) > 1:
        yield f"harsh augmentation: {', '.join(found)}"


def _parts(specs: Mapping[str, Spec]) -> Iterator[tuple[str, Spec, bool]]:
    """Yield (key, augmentation, whether it applies to every picture).

    An augmentation such as `one_of` has choices, which are yielded after it. The key of a choice is that in
    `choices`.
    """
    for label, spec in specs.items():
        if spec.p:
            yield label, spec, spec.p == 1
            inner = [(name, part) for name, part, _ in _parts(spec.kwargs().get("choices", {}))]
            yield from ((name, part, False) for name, part in inner)


def warnings_before(config: Config) -> list[str]:
    """Return the static errors and warnings that training itself does not report.

    Each is a line of text.
    """
    case = planned(config)
    return [
        str(finding)
        for each in CHECKS.values()
        if each.stage == "static" and each.severity != "note" and not each.told
        for finding in each.findings(case)
    ]


@check("static", "warning", "remove the setting, or change the one that disables it")
def no_effect(case: Planned) -> Reasons:
    """Check that each setting has an effect, by the configuration alone."""
    yield from without_effect_as_planned(case.config, case.plan, case.run_steps)
