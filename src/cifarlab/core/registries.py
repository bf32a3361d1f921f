"""The registries: one for each kind of part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, PlainSerializer

from cifarlab.core.registry import Registry, Spec


@dataclass(frozen=True)
class DatasetTraits:
    """What a data set declares.

    Attributes:
        split_as_published: Its parts do not depend on the size at which pictures are kept.
    """

    split_as_published: bool = False


@dataclass(frozen=True)
class AugmentTraits:
    """What an augmentation declares.

    Attributes:
        lower: Plans its step, so that steps with equal kernels become one.
    """

    lower: Callable[..., Any] | None = None


@dataclass(frozen=True)
class HeadTraits:
    """What a head declares of its logits.

    Attributes:
        cosines: They are cosines times a scale.
        products: They are products of the embedding and a row of weights; a bias may be added.
    """

    cosines: bool = False
    products: bool = False


@dataclass(frozen=True)
class LossTraits:
    """What a loss declares.

    Attributes:
        soft_targets: It has a form for mixed targets.
        needs_cosines: It works on a head's cosines.
        needs_products: It works on logits without bias.
        needs_teacher: What it reads of a teacher; None: it has none.
        compares: It compares the pictures of a batch.
        reads_logits: Of the student.
        reads_scale: It multiplies cosines by the head's scale.
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
    """What an optimizer declares.

    Attributes:
        hidden_apart: It steps hidden matrices in another way than the rest, and wants them in groups apart.
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

# The keys of a recipe where each kind stands.
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
