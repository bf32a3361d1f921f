"""Measurements of a teacher before training, and the faults that they show."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import torch
from torch import Tensor

from cifarlab.config import Config
from cifarlab.config.saved import SavedConfig
from cifarlab.core.random import hash_ints, label_key
from cifarlab.data.placement import place_split
from cifarlab.data.splits import Split, Splits, load_splits
from cifarlab.engine.batches import make_batch, view_epoch
from cifarlab.engine.calibration import COLDEST, HOTTEST, best_temperature
from cifarlab.engine.step import Engine
from cifarlab.runs.teacher_report import TaughtTerm, TeacherFile, TeacherReport, TemperedTerm
from cifarlab.teachers.teacher import PICTURES_PER_PASS, Member, Teacher

# Number of pictures: enough for a standard error of 1.6 points. On a CPU, a teacher at 224 px is slow.
PICTURES = 1000
# A distillation loss is useless if the teacher's probabilities are this close to uniform or to one-hot, as
# shares of log(classes), or if its gradient is below this share of the other losses' gradient. The tutorial's
# cosines x 8 at temperature 4 are 0.014 from uniform if 100 directions are orthogonal; 0.035 was measured.
NEARLY_UNIFORM = 0.04
NEARLY_ONE_HOT = 0.01
NEARLY_NO_GRADIENT = 0.05


def examine(teacher: Teacher, engine: Engine, splits: Splits) -> TeacherReport:
    """Measure a teacher before training, as `TeacherReport` describes.

    With `teacher.calibrate`, this first sets the teacher's temperatures. The temperatures and `teacher_top1`
    come from the pictures that `held_out` returns. `agreement` and `terms` come from augmented training
    pictures.
    """
    config, num_classes = engine.config, engine.model.num_classes
    unseen, where = held_out(teacher, config, splits)
    raw, labels = _answers(teacher, unseen, config, num_classes)
    if config.teacher and config.teacher.calibrate:
        teacher.temperatures = [best_temperature(raw[:, member], labels) for member in range(raw.shape[1])]
    top1 = _agreement(teacher.mean_logits(raw), labels)
    raw, labels = _answers(teacher, splits.train, config, num_classes, view=view_epoch(config, 0))
    logits = teacher.mean_logits(raw)
    return TeacherReport(
        teachers=[TeacherFile(path=m.path, sha256=m.sha256) for m in teacher.members],
        temperatures=teacher.temperatures,
        measured_on=where,
        pictures=min(PICTURES, len(unseen)),
        teacher_top1=top1,
        agreement=_agreement(logits, labels),
        log_classes=math.log(num_classes),
        terms=_terms(config, logits, gradient_norms(teacher, engine)),
        cache_seconds=0.0,
    )


def held_out(teacher: Teacher, config: Config, splits: Splits) -> tuple[Split, str]:
    """Return pictures to measure a teacher on, and a name for them.

    The result is the first of these whose condition holds:

    - "val": the student's validation pictures, if no member may have been trained on some of them.
    - "the teacher's val": the validation pictures of the teacher's own run, if it has a single member that
      was trained on the same data set.
    - "train": the training pictures, in all other cases.
    """
    strangers = [member for member in teacher.members if knows_validation(member, config, splits)]
    if not strangers and splits.val is not None:
        return splits.val, "val"
    member, its = teacher.members[0], teacher.members[0].trained.saved
    if len(teacher.members) == 1 and its.data.val and has_same_pictures(member, config, splits):
        data = its.data.model_copy(update={"root": config.data.root, "limit": None})
        # A share of few pictures may be none.
        if (val := load_splits(data, its.split_seed).val) is not None:
            return place_split(val, splits.train.labels.device), "the teacher's val"
    return splits.train, "train"


def has_same_pictures(member: Member, config: Config | SavedConfig, splits: Splits) -> bool:
    """Tell whether a member was trained on this run's data set."""
    trained = member.trained
    if trained.fingerprint["train"] == splits.fingerprint["train"]:
        return True
    if trained.store_size == splits.train.images.shape[-1]:
        return False
    # The fingerprint of an image folder depends on the size at which its pictures are stored.
    ours, theirs = config.data, trained.saved.data
    return (ours.dataset.name, ours.root) == (theirs.dataset.name, theirs.root)


def knows_validation(member: Member, config: Config | SavedConfig, splits: Splits) -> bool:
    """Tell whether a member may have trained on this run's validation pictures.

    That may be so if it was trained on the same data set with another split.
    """
    if splits.val is None or "val" in splits.fingerprint or not has_same_pictures(member, config, splits):
        return False
    its = member.trained.saved
    return (
        # A split depends on the content of the pictures.
        member.trained.fingerprint["train"] != splits.fingerprint["train"]
        or (its.data.val, its.data.classes) != (config.data.val, config.data.classes)
        or its.split_seed != config.split_seed
    )


def _answers(
    teacher: Teacher, split: Split, config: Config, num_classes: int, view: int | None = None
) -> tuple[Tensor, Tensor]:
    """Return the uncalibrated logits (n, M, C) of a teacher of M models, and the labels (n,).

    They are for the first n pictures of a split, at most PICTURES. The pictures are augmented as in epoch
    `view`; if it is None, they are not augmented.
    """
    # A split is ordered by a hash, so its first pictures are a random sample.
    data = config.data if view is not None else config.data.model_copy(update={"augment": {}, "mix": {}})
    raw, labels = [], []
    positions = torch.arange(min(PICTURES, len(split)), device=split.rows.device)
    for chunk in positions.split(PICTURES_PER_PASS):
        batch = make_batch(split, chunk, data, config.train.seed, view or 0, num_classes)
        raw.append(teacher.ask(batch.images).logits)
        labels.append(batch.labels)
    return torch.cat(raw), torch.cat(labels)


def _agreement(logits: Tensor, labels: Tensor) -> float:
    return (logits.argmax(-1) == labels).double().mean().item()


def _terms(config: Config, logits: Tensor, norms: dict[str, float]) -> dict[str, TemperedTerm | TaughtTerm]:
    """Return the measurements of each distillation loss, by its key in `objective`.

    `logits` are the teacher's calibrated logits, and `norms` is the result of `gradient_norms`.
    """
    taught = {label: spec for label, spec in config.objective.items() if spec.part.traits.needs_teacher}
    others = math.hypot(*(norm for label, norm in norms.items() if label not in taught))
    terms: dict[str, TemperedTerm | TaughtTerm] = {}
    for label, spec in taught.items():
        ratio = norms[label] / others if others else None
        terms[label] = TaughtTerm(gradient_norm=norms[label], gradient_ratio=ratio)
        if temperature := spec.kwargs().get("temperature"):
            log_probability = (logits / temperature).double().log_softmax(-1)
            entropy = -(log_probability.exp() * log_probability).sum(-1).mean().item()
            terms[label] = TemperedTerm(
                gradient_norm=norms[label],
                gradient_ratio=ratio,
                temperature=temperature,
                entropy=entropy,
                kl_from_uniform=math.log(logits.shape[1]) - entropy,
            )
    return terms


def gradient_norms(teacher: Teacher, engine: Engine) -> dict[str, float]:
    """Return the gradient norm of each loss on the first batch.

    The result has the keys of `objective`. The gradient is that of weight x loss, with respect to the
    student's trainable parameters.
    """
    # A copy: the pass updates batch norm statistics.
    config, model = engine.config, copy.deepcopy(engine.model).train()
    torch.manual_seed(hash_ints(config.train.seed, label_key("health")))  # For dropout.
    positions = engine.order(0)[: engine.plan.batch_size]
    batch = make_batch(
        engine.train_split,
        positions,
        config.data,
        config.train.seed,
        view_epoch(config, 0),
        model.num_classes,
    )
    batch = replace(batch, teacher=teacher.read(teacher.ask(batch.images)), progress=1.0)
    with engine.precision.autocast():
        output = model(engine.precision.layout(batch.images), stages=teacher.stages)
        losses = engine.objective(batch, output)
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    norms = {}
    for label, factor in engine.objective.weights.items():
        norms[label] = 0.0
        if weights and losses[label].requires_grad:
            gradients = torch.autograd.grad(losses[label], weights, retain_graph=True, allow_unused=True)
            found = [gradient.float().norm() for gradient in gradients if gradient is not None]
            norms[label] = factor * torch.stack(found).norm().item() if found else 0.0
    return norms


def describe_teacher(health: TeacherReport) -> list[str]:
    """Return lines for the terminal that describe the measurements of a teacher."""
    first = (
        f"teacher: top-1 {health.teacher_top1:.1%} on {health.pictures:,} pictures of "
        f"{health.measured_on}, {health.agreement:.1%} on training views"
    )
    if health.temperatures != [1.0] * len(health.temperatures):
        first += f"; its logits are divided by {', '.join(f'{t:.3g}' for t in health.temperatures)}"
    lines = [first]
    for label, term in health.terms.items():
        words = []
        if isinstance(term, TemperedTerm):
            words.append(
                f"at temperature {term.temperature:g} the teacher's probabilities have entropy "
                f"{term.entropy:.3f} and are {term.kl_from_uniform:.3f} from uniform, of "
                f"{health.log_classes:.3f} nats"
            )
        if term.gradient_ratio is not None:
            words.append(f"its gradient is {term.gradient_ratio:.2f} times that of the other losses")
        lines += [f"{label}: {'; '.join(words)}"] if words else []
    return lines


def teacher_warnings(health: TeacherReport, config: Config) -> list[str]:
    """Return a line with reason and fix for each of `teacher_faults`."""
    return [f"{reason}; {fix}" for _, reason, fix in teacher_faults(health, config)]


def teacher_faults(health: TeacherReport, config: Config) -> list[tuple[str, str, str]]:
    """Return faults of the teacher as (kind, reason, fix).

    The kinds are:

    - guess: the accuracy is hardly better than that of random guessing.
    - near_uniform, near_one_hot: the probabilities are almost uniform or almost one-hot.
    - idle: a distillation loss has almost no gradient.
    - not_held_out: there were only training pictures to measure the teacher on.
    - not_calibrated: the best temperature is at the limit of the allowed range.
    """
    assert config.teacher is not None
    log_classes, found = health.log_classes, []
    if health.teacher_top1 < 2 / math.exp(log_classes):
        reason = "the teacher is hardly better than random guessing"
        found.append(("guess", reason, "train it longer, or name another teacher.run"))
    else:
        for label, term in health.terms.items():
            found += _faults_of_term(label, term, log_classes, config.teacher.calibrate)
    if health.measured_on == "train":
        what = "calibrated and scored" if config.teacher.calibrate else "scored"
        reason = f"no pictures are held out from the teacher: it was {what} on its training pictures"
        found.append(("not_held_out", reason, "hold pictures out in the teacher's run: data.val=0.1"))
    if config.teacher.calibrate and not all(1.01 * COLDEST < t < 0.99 * HOTTEST for t in health.temperatures):
        reason = f"no temperature between {COLDEST:g} and {HOTTEST:g} calibrates the teacher"
        found.append(("not_calibrated", reason, "name another teacher.run, or set teacher.calibrate=false"))
    return found


def _faults_of_term(
    label: str, term: TaughtTerm, log_classes: float, calibrated: bool
) -> list[tuple[str, str, str]]:
    found = []
    tempered = isinstance(term, TemperedTerm)
    if tempered and term.kl_from_uniform < NEARLY_UNIFORM * log_classes:
        reason = (
            f"{label} has almost no effect: at temperature {term.temperature:g} the teacher's probabilities "
            f"are only {term.kl_from_uniform:.3f} of {log_classes:.3f} nats from uniform"
        )
        fix = f"lower objective.{label}.temperature" if calibrated else "set teacher.calibrate=true"
        found.append(("near_uniform", reason, fix))
    elif tempered and term.entropy < NEARLY_ONE_HOT * log_classes:
        reason = (
            f"{label} adds little to the labels: the teacher's probabilities are almost one-hot (entropy "
            f"{term.entropy:.3f} nats)"
        )
        found.append(("near_one_hot", reason, f"raise objective.{label}.temperature"))
    if term.gradient_norm == 0:
        fix = f"train the layers that it acts on (model.freeze), or remove objective.{label}"
        found.append(("idle", f"{label} has no gradient in the trained weights", fix))
    elif term.gradient_ratio is not None and term.gradient_ratio < NEARLY_NO_GRADIENT:
        reason = (
            f"{label} hardly counts: its gradient is only {term.gradient_ratio:.3f} times that of the other "
            "losses"
        )
        found.append(("idle", reason, f"raise objective.{label}.weight"))
    return found
