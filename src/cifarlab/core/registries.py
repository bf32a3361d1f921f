"""The registries: one for each kind of part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, PlainSerializer

from cifarlab.core.registry import Registry, Spec


@dataclass(frozen=True)
class DatasetTraits:
    """Traits of a data set.

    Attributes:
        split_as_published: The data set's parts do not depend on the size at which pictures are kept.
    """

    split_as_published: bool = False


@dataclass(frozen=True)
class AugmentTraits:
    """Traits of an augmentation.

    Attributes:
        lower: Returns the augmentation's kernel and its parameters. Steps with equal kernels are fused.
    """

    lower: Callable[..., Any] | None = None


@dataclass(frozen=True)
class HeadTraits:
    """Traits of a head.

    Attributes:
        cosines: The logits are cosines times a scale.
        products: The logits are products of the embedding with rows of weights, perhaps plus a bias.
    """

    cosines: bool = False
    products: bool = False


@dataclass(frozen=True)
class LossTraits:
    """Traits of a loss.

    Attributes:
        soft_targets: The loss accepts mixed targets.
        needs_cosines: The loss needs a head's cosines.
        needs_products: The loss needs logits without bias.
        needs_teacher: The part of the teacher's output that the loss reads. None: it needs no teacher.
        compares: The loss compares the pictures of a batch with each other.
        reads_logits: The loss reads the student's logits.
        reads_scale: The loss multiplies cosines by the head's scale.
    """

    soft_targets: bool = True
    needs_cosines: bool = False
    needs_products: bool = False
    needs_teacher: Literal["logits", "embedding", "stages"] | None = None
    compares: bool = False
    reads_logits: bool = True
    reads_scale: bool = False


@dataclass(frozen=True)
class OptimizerTraits:
    """Traits of an optimizer.

    Attributes:
        hidden_apart: The optimizer updates hidden matrices differently and needs them in separate groups.
    """

    hidden_apart: bool = False


DATASETS = Registry("data set", traits=DatasetTraits)
AUGMENTS = Registry("augmentation", beside=("p",), traits=AugmentTraits)
MIXERS = Registry("mixer", beside=("p",))
BACKBONES = Registry("backbone")
HEADS = Registry("head", traits=HeadTraits)
LOSSES = Registry("loss", beside=("weight",), traits=LossTraits)
OPTIMIZERS = Registry("optimizer", traits=OptimizerTraits)
SCHEDULES = Registry("schedule")
SHARPNESS = Registry("sharpness-aware step")
AVERAGES = Registry("weight average")

# Registries by the key of a recipe that takes parts of their kind.
REGISTRIES = {
    "data.dataset": DATASETS,
    "data.augment": AUGMENTS,
    "data.mix": MIXERS,
    "model.backbone": BACKBONES,
    "model.head": HEADS,
    "objective": LOSSES,
    "optim": OPTIMIZERS,
    "optim.schedule": SCHEDULES,
    "optim.sharpness": SHARPNESS,
    "train.average": AVERAGES,
}

_DUMP = PlainSerializer(Spec.dump)
DatasetSpec = Annotated[Spec, BeforeValidator(DATASETS.spec), _DUMP]
BackboneSpec = Annotated[Spec, BeforeValidator(BACKBONES.spec), _DUMP]
HeadSpec = Annotated[Spec, BeforeValidator(HEADS.spec), _DUMP]
ScheduleSpec = Annotated[Spec, BeforeValidator(SCHEDULES.spec), _DUMP]
SharpnessSpec = Annotated[Spec, BeforeValidator(SHARPNESS.spec), _DUMP]
AverageSpec = Annotated[Spec, BeforeValidator(AVERAGES.spec), _DUMP]
AugmentSpecs = Annotated[
    dict[str, Annotated[Spec, BeforeValidator(AUGMENTS.spec), _DUMP]], BeforeValidator(AUGMENTS.labelled)
]
MixSpecs = Annotated[
    dict[str, Annotated[Spec, BeforeValidator(MIXERS.spec), _DUMP]], BeforeValidator(MIXERS.labelled)
]
LossSpecs = Annotated[
    dict[str, Annotated[Spec, BeforeValidator(LOSSES.spec), _DUMP]], BeforeValidator(LOSSES.labelled)
]
