"""What a teacher has to say, measured before training: a distillation term may be nearly empty unnoticed."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from cifarlab.config import Config
from cifarlab.data.splits import Split, Splits
from cifarlab.engine import Engine
from cifarlab.records import Batch
from cifarlab.teachers.teacher import PICTURES_PER_PASS, Teacher, calibration
from cifarlab.views import dress, view_epoch

# Enough to know an accuracy to 1.6 points; a teacher at 224 px answers slowly on a CPU.
PICTURES = 1000
# Shares of log(classes), the entropy of a guess, and of the other terms' gradient, below which a term is as
# good as none. Cosines x 8 at temperature 4, as in the tutorial, are 0.014 from uniform where 100 directions
# are orthogonal, and were up to 0.035 where they were not.
NEARLY_UNIFORM = 0.05
NEARLY_ONE_HOT = 0.01
NEARLY_NO_GRADIENT = 0.05


def examine(teacher: Teacher, engine: Engine, splits: Splits) -> dict[str, Any]:
    """Calibrate a teacher, if the recipe says so, and measure what its answers hold; a record as plain data.

    teacher_top1: on clean pictures of `measured_on`. entropy, kl_from_uniform: of its answers to training
    views at the loss's temperature, means in nats; log_classes: the most they can be. agreement: share of
    training views that it gives the label. gradient_norms: of each weighted term at the initial weights;
    gradient_ratio: of the distillation terms' to the others'.
    """
    config = engine.config
    name = "val" if splits.val is not None else "train"
    held_out = splits.val if splits.val is not None else splits.train
    raw, labels = _answers(teacher, held_out, config, engine.model.num_classes)
    if config.teacher and config.teacher.calibrate:
        teacher.temperatures = [calibration(raw[:, member], labels) for member in range(raw.shape[1])]
    top1 = (teacher.mean_logits(raw).argmax(-1) == labels).double().mean().item()
    raw, labels = _answers(
        teacher, splits.train, config, engine.model.num_classes, view=view_epoch(config, 0)
    )
    logits = teacher.mean_logits(raw)
    temperature = temperature_of(config)
    log_probability = (logits / temperature).double().log_softmax(-1)
    entropy = -(log_probability.exp() * log_probability).sum(-1).mean().item()
    log_classes = math.log(logits.shape[1])
    norms = gradient_norms(teacher, engine)
    return {
        "teachers": [{"path": str(m.path), "sha256": m.sha256} for m in teacher.members],
        "temperatures": list(teacher.temperatures),
        "measured_on": name,
        "pictures": min(PICTURES, len(held_out)),
        "teacher_top1": top1,
        "temperature": temperature,
        "entropy": entropy,
        "kl_from_uniform": log_classes - entropy,
        "log_classes": log_classes,
        "agreement": (logits.argmax(-1) == labels).double().mean().item(),
        "gradient_norms": norms,
        "gradient_ratio": _ratio(norms, config),
    }


def temperature_of(config: Config) -> float:
    """The temperature at which the first loss that has one reads the teacher, else 1."""
    specs = [spec for spec in config.objective.values() if spec.part.traits.get("needs_teacher")]
    return float(
        next((spec.kwargs()["temperature"] for spec in specs if "temperature" in spec.kwargs()), 1.0)
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
        batch = dress(split, chunk, data, config.train.seed, view or 0, num_classes)
        raw.append(teacher.ask(batch.images).logits)
        labels.append(batch.labels)
    return torch.cat(raw), torch.cat(labels)


def gradient_norms(teacher: Teacher, engine: Engine) -> dict[str, float]:
    """{label: norm of the gradient of its weighted loss} on the first batch, over the student's weights."""
    config, model = engine.config, copy.deepcopy(engine.model).train()  # Batch norm would take note.
    positions = engine.plan.positions(engine.order(0), 0)
    data, view = config.data, view_epoch(config, 0)
    batch: Batch = dress(engine.train, positions, data, config.train.seed, view, model.num_classes)
    batch = replace(batch, teacher=teacher.read(teacher.ask(batch.images)), progress=1.0)
    with engine.precision.autocast():
        output = model(engine.precision.layout(batch.images), stages=teacher.stages)
        losses = engine.objective(batch, output)
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    norms = {}
    for label, factor in engine.objective.weights.items():
        gradients = torch.autograd.grad(losses[label], weights, retain_graph=True, allow_unused=True)
        found = [gradient.float().norm() for gradient in gradients if gradient is not None]
        norms[label] = factor * torch.stack(found).norm().item() if found else 0.0
    return norms


def _ratio(norms: dict[str, float], config: Config) -> float | None:
    """Of the distillation terms' gradient to the others'; None where there are no others."""
    taught = {label for label, spec in config.objective.items() if spec.part.traits.get("needs_teacher")}
    ours = math.hypot(*(norm for label, norm in norms.items() if label in taught))
    rest = math.hypot(*(norm for label, norm in norms.items() if label not in taught))
    return ours / rest if rest else None


def describe(health: dict[str, Any]) -> str:
    """One line for the terminal."""
    ratio, temperatures = health["gradient_ratio"], health["temperatures"]
    words = [
        f"teacher: top-1 {health['teacher_top1']:.1%} on {health['pictures']:,} pictures of "
        f"{health['measured_on']}",
        f"gives the label of {health['agreement']:.1%} of training views",
        f"at temperature {health['temperature']:g} entropy {health['entropy']:.3f}, "
        f"{health['kl_from_uniform']:.3f} from uniform, of {health['log_classes']:.3f} nats",
    ]
    if temperatures != [1.0] * len(temperatures):
        words.append(f"calibrated by {', '.join(f'{value:.3g}' for value in temperatures)}")
    if ratio is not None:
        words.append(f"gradient {ratio:.2f} times the other terms'")
    return "; ".join(words)


def complaints(health: dict[str, Any], config: Config) -> list[str]:
    """A line, with the fix, for each way in which the teacher says next to nothing."""
    assert config.teacher is not None
    label = next(name for name, spec in config.objective.items() if spec.part.traits.get("needs_teacher"))
    reads_logits = "temperature" in config.objective[label].kwargs()
    log_classes, found = health["log_classes"], []
    if health["teacher_top1"] < 2 / math.exp(log_classes):
        found.append(
            "the teacher is hardly better than a guess; train it longer, or name another teacher.run"
        )
    elif reads_logits and health["kl_from_uniform"] < NEARLY_UNIFORM * log_classes:
        fix = (
            f"lower objective.{label}.temperature"
            if config.teacher.calibrate
            else "say teacher.calibrate=true"
        )
        found.append(
            f"the distillation term is nearly empty: at temperature {health['temperature']:g} the teacher's "
            f"answers are {health['kl_from_uniform']:.3f} nats from uniform, of {log_classes:.3f}; {fix}"
        )
    elif reads_logits and health["entropy"] < NEARLY_ONE_HOT * log_classes:
        found.append(
            f"the teacher's answers are nearly one-hot (entropy {health['entropy']:.3f} nats): they say "
            f"little that the labels do not; raise objective.{label}.temperature"
        )
    ratio = health["gradient_ratio"]
    if ratio is not None and ratio < NEARLY_NO_GRADIENT:
        found.append(
            f"the distillation terms' gradient is {ratio:.3f} times the others': they hardly count; raise "
            f"objective.{label}.weight"
        )
    if health["measured_on"] == "train":
        found.append("there are no validation pictures: the teacher was calibrated on what it was trained on")
    return found
