"""The registries, one for each kind of part, and their traits.

Traits are facts that a part declares about itself when it is registered. Other code reads them.
"""

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
        split_as_published: Whether the validation split is the same for every `data.store_size`, because it
            is drawn from the pictures at their published size.
    """

    split_as_published: bool = False


@dataclass(frozen=True)
class AugmentTraits:
    """Traits of an augmentation.

    Attributes:
        lower: Function with the same parameters as the augmentation. In place of the augmented pictures it
            returns a `Lowered` (cifarlab/augment/kernels.py): the image operation and its parameters for each
            sample. With it, augmentations that apply one of several others to each sample, such as
            RandAugment, run each operation once for all its samples. None: there is no such function.
    """

    lower: Callable[..., Any] | None = None


@dataclass(frozen=True)
class HeadTraits:
    """Traits of a head.

    Attributes:
        cosines: Whether the logits are cosines times a scale.
        products: Whether the logits are dot products of the embedding and a weight vector for each class,
            with or without a bias.
    """

    cosines: bool = False
    products: bool = False


@dataclass(frozen=True)
class LossTraits:
    """Traits of a loss.

    Attributes:
        soft_targets: Whether the loss accepts the targets of mixed pictures.
        needs_cosines: Whether the loss needs a head with the trait `cosines`.
        needs_products: Whether the loss needs a head with the trait `products` and without bias.
        needs_teacher: Field of the teacher's `Output` that the loss reads. None: it needs no teacher.
        compares: Whether the loss compares the pictures of a batch with each other.
        reads_logits: Whether the loss reads the logits of the trained model.
        reads_scale: Whether the loss multiplies cosines by the head's scale.
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
        hidden_apart: Whether the optimizer treats the matrices of hidden layers differently, as Muon does, so
            that they must form parameter groups of their own.
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
