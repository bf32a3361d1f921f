"""The registries: one for each kind of part."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer

from cifarlab.core.registry import Registry, Spec

DATASETS = Registry("data set")
AUGMENTS = Registry("augmentation", beside=("p",))
MIXERS = Registry("mixer", beside=("p",))
BACKBONES = Registry("backbone")
HEADS = Registry("head")
LOSSES = Registry("loss", beside=("weight",))
OPTIMIZERS = Registry("optimizer")
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
