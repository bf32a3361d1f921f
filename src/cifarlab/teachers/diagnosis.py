"""What a teacher has to say, measured before training: a distillation term may be nearly empty unnoticed."""

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

# Enough to know an accuracy to 1.6 points; a teacher at 224 px answers slowly on a CPU.
PICTURES = 1000
# Shares of log(classes), the entropy of a guess, and of the other terms' gradient, below which a term is as
# good as none. Cosines x 8 at temperature 4, as in the tutorial, are 0.014 from uniform where 100 directions
# are orthogonal, and were up to 0.035 where they were not.
NEARLY_UNIFORM = 0.04
NEARLY_ONE_HOT = 0.01
NEARLY_NO_GRADIENT = 0.05


def examine(teacher: Teacher, engine: Engine, splits: Splits) -> TeacherReport:
    """Measure a teacher's accuracy and what a student can learn from it.

    If the recipe asks for calibration, the teacher is calibrated before. Calibration and accuracy use the
    pictures that `held_out` returns. All else is measured on training views.
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
    """Pictures that the teacher has not trained on, and what they are.

    Those that validate the student, unless the teacher's split of the same pictures is another: then those
    that validated the teacher. Without either, training pictures.
    """
    strangers = [member for member in teacher.members if knows_validation(member, config, splits)]
    if not strangers and splits.val is not None:
        return splits.val, "val"
    if len(teacher.members) == len(strangers) == 1 and (its := strangers[0].trained.saved).data.val:
        data = its.data.model_copy(update={"root": config.data.root, "limit": None})
        val = load_splits(data, its.split_seed).val
        assert val is not None, "a share of the pictures was asked for"
        return place_split(val, splits.train.labels.device), "the teacher's val"
    return splits.train, "train"


def has_same_pictures(member: Member, config: Config | SavedConfig, splits: Splits) -> bool:
    """Whether a teacher was trained on this run's data set."""
    trained = member.trained
    if trained.fingerprint["train"] == splits.fingerprint["train"]:
        return True
    if trained.store_size == splits.train.images.shape[-1]:
        return False
    # An image folder's pictures have other fingerprints where they are kept at another size.
    ours, theirs = config.data, trained.saved.data
    return (ours.dataset.name, ours.root) == (theirs.dataset.name, theirs.root)


def knows_validation(member: Member, config: Config | SavedConfig, splits: Splits) -> bool:
    """Whether a teacher was trained on pictures that validate this run: the same ones, split another way."""
    if splits.val is None or "val" in splits.fingerprint or not has_same_pictures(member, config, splits):
        return False
    its = member.trained.saved
    return (
        # A split goes by the pictures' content.
        member.trained.fingerprint["train"] != splits.fingerprint["train"]
        or (its.data.val, its.data.classes) != (config.data.val, config.data.classes)
        or its.split_seed != config.split_seed
    )


def _answers(
    teacher: Teacher, split: Split, config: Config, num_classes: int, view: int | None = None
) -> tuple[Tensor, Tensor]:
    """Uncalibrated logits (n, M, C) and labels (n,) of a split's first pictures: clean, or as a view."""
    # A split lies in canonical order, that of a hash: its first pictures are a random sample.
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
    """What each loss that reads the teacher gets from it, by label."""
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
    """{label: norm of the gradient of its weighted loss} on the first batch, over the student's weights."""
    config, model = engine.config, copy.deepcopy(engine.model).train()  # Batch norm would take note.
    torch.manual_seed(hash_ints(config.train.seed, label_key("health")))  # Of dropout.
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
    """Lines for the terminal."""
    first = (
        f"teacher: top-1 {health.teacher_top1:.1%} on {health.pictures:,} pictures of "
        f"{health.measured_on}, gives the label of {health.agreement:.1%} of training views"
    )
    if health.temperatures != [1.0] * len(health.temperatures):
        first += f"; its logits are divided by {', '.join(f'{t:.3g}' for t in health.temperatures)}"
    lines = [first]
    for label, term in health.terms.items():
        words = []
        if isinstance(term, TemperedTerm):
            words.append(
                f"at temperature {term.temperature:g} its answers have entropy {term.entropy:.3f} and "
                f"are {term.kl_from_uniform:.3f} from uniform, of {health.log_classes:.3f} nats"
            )
        if term.gradient_ratio is not None:
            words.append(f"the gradient is {term.gradient_ratio:.2f} times that of the untaught terms")
        lines += [f"{label}: {'; '.join(words)}"] if words else []
    return lines


def teacher_warnings(health: TeacherReport, config: Config) -> list[str]:
    """A line, with the fix, for each way in which the teacher says next to nothing."""
    return [f"{reason}; {fix}" for _, reason, fix in teacher_faults(health, config)]


def teacher_faults(health: TeacherReport, config: Config) -> list[tuple[str, str, str]]:
    """The same as (what ails it, reason, fix).

    What ails it: guess, near_uniform, near_one_hot, idle, not_held_out, not_calibrated.
    """
    assert config.teacher is not None
    log_classes, found = health.log_classes, []
    if health.teacher_top1 < 2 / math.exp(log_classes):
        reason = "the teacher is hardly better than a guess"
        found.append(("guess", reason, "train it longer, or name another teacher.run"))
    else:
        for label, term in health.terms.items():
            found += _ailments_of(label, term, log_classes, config.teacher.calibrate)
    if health.measured_on == "train":
        what = "calibrated and scored" if config.teacher.calibrate else "scored"
        reason = f"no pictures are held out from the teacher: it was {what} on what it was trained on"
        found.append(("not_held_out", reason, "hold some out: data.val=0.1, in its run and in this one"))
    if config.teacher.calibrate and not all(1.01 * COLDEST < t < 0.99 * HOTTEST for t in health.temperatures):
        reason = f"no temperature between {COLDEST:g} and {HOTTEST:g} calibrates the teacher"
        found.append(("not_calibrated", reason, "name another teacher.run, or say teacher.calibrate=false"))
    return found


def _ailments_of(
    label: str, term: TaughtTerm, log_classes: float, calibrated: bool
) -> list[tuple[str, str, str]]:
    found = []
    tempered = isinstance(term, TemperedTerm)
    if tempered and term.kl_from_uniform < NEARLY_UNIFORM * log_classes:
        reason = (
            f"{label} is nearly empty: at temperature {term.temperature:g} the teacher's answers are "
            f"{term.kl_from_uniform:.3f} nats from uniform, of {log_classes:.3f}"
        )
        fix = f"lower objective.{label}.temperature" if calibrated else "say teacher.calibrate=true"
        found.append(("near_uniform", reason, fix))
    elif tempered and term.entropy < NEARLY_ONE_HOT * log_classes:
        reason = (
            f"{label} reads answers that are nearly one-hot (entropy {term.entropy:.3f} nats): they say "
            "little that the labels do not"
        )
        found.append(("near_one_hot", reason, f"raise objective.{label}.temperature"))
    if term.gradient_norm == 0:
        fix = f"train what it acts on (model.freeze), or remove objective.{label}"
        found.append(("idle", f"{label} moves no weight that is trained", fix))
    elif term.gradient_ratio is not None and term.gradient_ratio < NEARLY_NO_GRADIENT:
        reason = (
            f"{label} hardly counts: its gradient is {term.gradient_ratio:.3f} times that of the untaught "
            "terms"
        )
        found.append(("idle", reason, f"raise objective.{label}.weight"))
    return found
