"""The section `data`: the pictures and what is done to them before the model sees them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from cifarlab.config.sections.section import Section
from cifarlab.core.errors import ConfigError
from cifarlab.core.registries import (
    AugmentSpecs,
    DatasetSpec,
    MixSpecs,
)


class MultiScale(Section):
    """Training at several image sizes."""

    sizes: tuple[Annotated[int, Field(ge=8)], ...] = Field(
        description="Side lengths in pixels that the model is trained on, in place of image_size."
    )
    per: Literal["batch", "sample", "stage"] = Field(
        "batch",
        description=(
            "What is assigned its own size: each batch, each sample, or each stage of the run. "
            "With stage, the sizes are used one after the other in their order; small ones first is "
            "progressive resizing."
        ),
    )
    shares: tuple[Annotated[float, Field(gt=0)], ...] | None = Field(
        None,
        description=(
            "With per: stage, the share of the run's steps for each size; the shares sum to 1. Default: "
            "equal shares."
        ),
    )

    @field_validator("sizes")
    @classmethod
    def _distinct(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or len(set(value)) < len(value):
            raise ConfigError(f"expected at least one size, and each size once; got {[*value]}")
        return value

    @model_validator(mode="after")
    def _one_share_a_stage(self) -> MultiScale:
        if self.shares is None:
            return self
        if self.per != "stage":
            raise ConfigError(f"needs per: stage, and this is per: {self.per}", ("shares",))
        if len(self.shares) != len(self.sizes) or abs(sum(self.shares) - 1) > 1e-6:
            raise ConfigError(
                f"expected {len(self.sizes)} shares (one for each size) that sum to 1; got {[*self.shares]}",
                ("shares",),
            )
        return self


class DataConfig(Section):
    """The pictures: data set, validation split, sizes, batches, augmentation and mixing."""

    dataset: DatasetSpec = Field(description="The data set, see `cifarlab parts data.dataset`.")
    root: str | None = Field(
        None,
        description=(
            "Folder of the data set. Default: a published data set is searched in the environment variable "
            "CIFARLAB_DATA, then in the user cache, and downloaded if it is in neither."
        ),
    )
    image_size: Annotated[int, Field(ge=8)] = Field(
        32,
        description="Side length in pixels at which the model sees pictures, in training and in evaluation.",
    )
    multi_scale: MultiScale | None = Field(
        None,
        description="Train at several sizes; evaluation stays at image_size. Null: train at image_size.",
    )
    store_size: Annotated[int, Field(ge=8)] | None = Field(
        None,
        description=(
            "Side length in pixels at which pictures are kept in memory. Default: the data set's own size, "
            "or else the largest size that the model sees."
        ),
    )
    batch_size: Annotated[int, Field(ge=2)] = Field(
        250, description="Pictures in a forward pass. An optimizer step uses train.accumulate batches."
    )
    val: Annotated[float, Field(ge=0)] = Field(
        0.1,
        description=(
            "Validation pictures held out of the training part, the same share of every class: a "
            "fraction below 1, or a count."
        ),
    )
    limit: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="Train on this many pictures only, the same share of every class. Null: train on all.",
    )
    split_seed: Annotated[int, Field(ge=0)] | None = Field(
        None,
        description=(
            "Seed that draws the validation pictures and those of `limit`. Default: train.seed, so runs of "
            "different seeds train on different pictures."
        ),
    )
    classes: Annotated[int, Field(ge=2)] | None = Field(
        None, description="Keep only this many classes, the first ones. Null: keep all."
    )
    shuffle: bool = Field(True, description="Draw a new order of the training pictures every epoch.")
    views: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description=(
            "Number of different augmented views of each picture. The views repeat in turn: epoch e, counted "
            "from 0, shows view e modulo this number. Default: a new view every epoch."
        ),
    )
    freeze_views: bool = Field(
        False,
        description=(
            "Show the augmented pictures of the first epoch in every epoch. Some pipelines have this defect; "
            "the option measures its cost."
        ),
    )

    @field_validator("root")
    @classmethod
    def _absolute(cls, value: str | None) -> str | None:
        # Later commands may read the run from another working folder.
        return str(Path(value).expanduser().absolute()) if value is not None else None

    skip_broken: bool = Field(
        False,
        description=(
            "Leave out unreadable files and print their number. False: the first unreadable file is an error."
        ),
    )
    augment: AugmentSpecs = Field(
        default_factory=dict,
        description="Augmentations of training pictures, {label: options}, applied in order.",
    )
    mix: MixSpecs = Field(
        default_factory=dict,
        description="Mixers of pairs of training pictures, {label: options}, applied in order.",
    )

    @property
    def train_sizes(self) -> tuple[int, ...]:
        """Side lengths in pixels that the model is trained on."""
        return (self.image_size,) if self.multi_scale is None else self.multi_scale.sizes

    def held_out(self, count: int) -> int:
        """Return how many validation pictures the option `val` takes.

        Args:
            count: Number of pictures in the training part.
        """
        return round(self.val * count) if self.val < 1 else int(self.val)
