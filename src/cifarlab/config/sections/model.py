"""The section `model`: the classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from cifarlab.config.sections.section import Section
from cifarlab.core.errors import ConfigError
from cifarlab.core.plain import is_sequence
from cifarlab.core.registries import BackboneSpec, HeadSpec


class ModelConfig(Section):
    """The classifier: backbone, head, initial weights, frozen parts."""

    backbone: BackboneSpec = Field(
        description=(
            "The network up to its features, as a name or with options: {name: resnet18, stem: cifar}."
        )
    )
    head: HeadSpec = Field(description="The last layer, from features to logits.")
    init: str | None = Field(
        None,
        description=(
            "Folder of a run, or checkpoint, from which to load the model's first weights. Null: random or "
            "pretrained ones, as the backbone's options say."
        ),
    )
    freeze: tuple[str, ...] = Field(
        (),
        description=(
            "Names of parts that are not trained: head, backbone, backbone.conv1, backbone.layer1.0, ..."
        ),
    )
    batch_norm_eval: Literal["none", "frozen", "backbone"] = Field(
        "frozen",
        description=(
            "Batch norms that use and keep their running statistics during training: none, those in frozen "
            "parts, or all in the backbone."
        ),
    )
    normalize: Literal["none", "imagenet", "dataset", "pretrained"] = Field(
        "none",
        description=(
            "Mean and standard deviation by which the model normalises its input. none: no normalisation. "
            "imagenet: those of ImageNet. dataset: those of the training pictures. pretrained: those that "
            "the backbone's published weights were trained with."
        ),
    )

    @field_validator("init")
    @classmethod
    def _one_spelling(cls, value: str | None) -> str | None:
        if value == "":
            raise ConfigError("expected a run's folder or a checkpoint; got ''")
        return Path(value).as_posix() if value is not None else None

    @field_validator("freeze", mode="before")
    @classmethod
    def _names(cls, value: Any) -> Any:
        names = [value] if isinstance(value, str) else [] if value is None else value
        if not is_sequence(names):
            raise ConfigError(f"expected a part's name, or a list of them; got {value!r}")
        return names
