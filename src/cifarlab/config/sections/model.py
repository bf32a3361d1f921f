"""`model`: the classifier."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from cifarlab.config.sections.section import Section
from cifarlab.core.registries import (
    BackboneSpec,
    HeadSpec,
)


class ModelConfig(Section):
    """The classifier: backbone, head, initial weights, frozen parts."""

    backbone: BackboneSpec = Field(
        description="The network up to its features, by name or with options: {name: resnet18, stem: cifar}."
    )
    head: HeadSpec = Field(description="The last layer, from features to logits.")
    init: str | None = Field(
        None,
        description="Run's folder or checkpoint whose weights the model starts from. Null: initial weights.",
    )
    freeze: tuple[str, ...] = Field(
        (),
        description=(
            "Parts that are not trained, by their names: head, backbone, backbone.conv1, "
            "backbone.layer1.0, ..."
        ),
    )
    batch_norm_eval: Literal["none", "frozen", "backbone"] = Field(
        "frozen",
        description=(
            "Batch norms that keep their running statistics during training: none, those in frozen "
            "parts, or all of the backbone."
        ),
    )
    normalize: Literal["none", "imagenet", "dataset", "pretrained"] = Field(
        "none",
        description=(
            "Mean and standard deviation that the model's first layer removes. dataset: of the training "
            "pictures; pretrained: those that the backbone's published weights were trained with."
        ),
    )

    @field_validator("freeze", mode="before")
    @classmethod
    def _one_part(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value or ()
