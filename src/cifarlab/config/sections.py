"""The typed sections of a run, each checked by itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, field_validator, model_serializer, model_validator

from cifarlab.core.errors import ConfigError, unknown
from cifarlab.core.registries import (
    OPTIMIZERS,
    AugmentSpecs,
    AverageSpec,
    BackboneSpec,
    DatasetSpec,
    HeadSpec,
    MixSpecs,
    ScheduleSpec,
    SharpnessSpec,
)
from cifarlab.core.strict_numbers import Strict


class Section(Strict):
    """One frozen section of a configuration; unknown keys are errors, defaults are checked and saved."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, arbitrary_types_allowed=True, allow_inf_nan=False
    )


class MultiScale(Section):
    """The sizes at which pictures are trained on."""

    sizes: tuple[Annotated[int, Field(ge=8)], ...] = Field(
        description="pixels a side that the model sees in training, in place of image_size"
    )
    per: Literal["batch", "sample", "stage"] = Field(
        "batch",
        description="whether all pictures of a step share a size, or each has its own; or each size in turn "
        "is that of a share of the run's steps: small ones first is progressive learning",
    )
    shares: tuple[Annotated[float, Field(gt=0)], ...] | None = Field(
        None, description="of each stage, the run's steps, that sum to 1; default: equal"
    )

    @field_validator("sizes")
    @classmethod
    def _distinct(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or len(set(value)) < len(value):
            raise ConfigError(f"at least one size, and each once; got {[*value]}")
        return value

    @model_validator(mode="after")
    def _one_share_a_stage(self) -> MultiScale:
        if self.shares is None:
            return self
        if self.per != "stage":
            raise ConfigError(f"shares are of stages, and this is per: {self.per}", ("shares",))
        if len(self.shares) != len(self.sizes) or abs(sum(self.shares) - 1) > 1e-6:
            raise ConfigError(
                f"one for each of {len(self.sizes)} sizes, 1 in total; got {[*self.shares]}", ("shares",)
            )
        return self


class DataConfig(Section):
    """What is shown to the model, and how."""

    dataset: DatasetSpec = Field(description="cifar100, cifar10, folder, synthetic, or a registered reader")
    root: str | None = Field(
        None, description="where the data set lies; default: CIFARLAB_DATA, then the user cache"
    )
    image_size: Annotated[int, Field(ge=8)] = Field(
        32, description="pixels a side that the model sees: in training, in validation, and when it is asked"
    )
    multi_scale: MultiScale | None = Field(
        None,
        description="train at several sizes, one a batch, a picture or a stage of the run; image_size "
        "scores the run",
    )
    store_size: Annotated[int, Field(ge=8)] | None = Field(
        None,
        description="pixels a side at which pictures are kept; default: the data set's own, "
        "or the largest that the model sees",
    )
    batch_size: Annotated[int, Field(ge=2)] = Field(
        250, description="pictures that the model sees at once; a step is train.accumulate times as many"
    )
    val: Annotated[float, Field(ge=0)] = Field(
        0.1, description="validation pictures taken from train, stratified: a fraction below 1, or a count"
    )
    limit: Annotated[int, Field(ge=1)] | None = Field(
        None, description="train on this many pictures only, stratified"
    )
    split_seed: Annotated[int, Field(ge=0)] | None = Field(
        None,
        description="draws the pictures of val and limit; default: train.seed. With one of its own, runs of "
        "several seeds share their validation pictures",
    )
    classes: Annotated[int, Field(ge=2)] | None = Field(
        None, description="keep the first so many classes only"
    )
    shuffle: bool = Field(True, description="a new order every epoch")
    views: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="augmented views of each picture: epoch e shows view e modulo this number; "
        "default: a new view every epoch",
    )
    freeze_views: bool = Field(
        False, description="every epoch shows the augmented pictures of epoch 0: a defect, by name"
    )

    @field_validator("root")
    @classmethod
    def _absolute(cls, value: str | None) -> str | None:
        # The run is read from other folders later.
        return str(Path(value).expanduser().absolute()) if value is not None else None

    skip_broken: bool = Field(False, description="leave out files that cannot be read, and count them")
    augment: AugmentSpecs = Field(
        default_factory=dict, description="{label: options} of augmentations, in order"
    )
    mix: MixSpecs = Field(default_factory=dict, description="{label: options} of mixers, in order")

    @property
    def train_sizes(self) -> tuple[int, ...]:
        """Pixels a side of the pictures that the model is trained on."""
        return (self.image_size,) if self.multi_scale is None else self.multi_scale.sizes


class ModelConfig(Section):
    """The classifier."""

    backbone: BackboneSpec
    head: HeadSpec
    init: str | None = Field(None, description="a run or a checkpoint to start from")
    freeze: tuple[str, ...] = Field(
        (), description="parts that are not trained: head, backbone, backbone.conv1, backbone.layer1.0, ..."
    )
    batch_norm_eval: Literal["none", "frozen", "backbone"] = Field(
        "frozen",
        description="batch norms that keep their statistics in training: none, those inside frozen parts, "
        "or all of the backbone's as well",
    )
    normalize: Literal["none", "imagenet", "dataset", "pretrained"] = Field(
        "none",
        description="mean and standard deviation taken off by the model's first layer; pretrained: those "
        "with which the backbone's published weights were trained",
    )

    @field_validator("freeze", mode="before")
    @classmethod
    def _one_part(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value or ()


class Lookahead(Section):
    """Slow weights that follow the optimizer's at intervals (Zhang et al. 2019), around any optimizer.

    The slow weights begin where the first `steps` steps lead.
    """

    steps: Annotated[int, Field(ge=1)] = Field(5, description="steps between two moves of the slow weights")
    alpha: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.5, description="the share of the way that the slow weights go, and that is kept"
    )


class OptimConfig(Section):
    """The optimizer, its options beside it, and the schedule of its learning rate."""

    lr: Annotated[float, Field(gt=0)] = Field(1e-3, description="the schedule's peak")
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    decay_norms: bool = Field(
        False, description="weight decay on norms, biases, class tokens and position embeddings, too"
    )
    norm_rate: Annotated[float, Field(gt=0)] = Field(
        1.0, description="the rate of norms and biases over that of the other weights"
    )
    layer_decay: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0, description="the rate of a layer over that of the layer above it; the head has the whole rate"
    )
    schedule: ScheduleSpec
    lookahead: Lookahead | None = Field(
        None, description="slow weights that follow the optimizer's, {steps, alpha}; {}: with its defaults"
    )
    sharpness: SharpnessSpec | None = Field(
        None, description="sam or asam: the gradient is taken where the loss nearby is worst, a second pass"
    )
    optimizer: Annotated[Any, Field(exclude=True)]

    @model_validator(mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            raise ConfigError(f"expected a mapping, got {value!r}")
        own = {k: v for k, v in value.items() if k in cls.model_fields and k != "optimizer"}
        rest = {k: v for k, v in value.items() if k not in own}
        name = rest.get("name")
        part = OPTIMIZERS[name] if isinstance(name, str) else OPTIMIZERS["adamw"]
        for key in rest:
            if key != "name" and key not in part.schema.model_fields:
                known = {*cls.model_fields, *part.schema.model_fields} - {"optimizer"}
                raise ConfigError(unknown(key, known), (key,))
        return {**own, "optimizer": OPTIMIZERS.spec(rest)}

    @model_serializer(mode="plain")
    def _flat(self) -> dict[str, Any]:
        keys = ("lr", "weight_decay", "decay_norms", "norm_rate", "layer_decay")
        own = {key: getattr(self, key) for key in keys}
        around = {
            "lookahead": self.lookahead and self.lookahead.model_dump(mode="json"),
            "sharpness": self.sharpness and self.sharpness.dump(),
        }
        return {"name": self.optimizer.name, **own, **self.optimizer.options.model_dump(mode="json"),
                "schedule": self.schedule.dump(), **around}  # fmt: skip


OPTIMIZERS.reserve(OptimConfig.model_fields)


class TrainConfig(Section):
    """The loop."""

    epochs: Annotated[int, Field(ge=1)] = 200
    stop: Annotated[int, Field(ge=1)] | None = Field(
        None, description="end after this epoch; schedules still span `epochs`; default: the last"
    )
    seed: Annotated[int, Field(ge=0)] = 0
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1")
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    engine: Literal["auto", "eager", "compiled", "graph"] = Field(
        "auto",
        description="compiled: torch.compile writes the model's kernels, in the first steps; "
        "graph: a GPU's steps and evaluations are captured once and replayed; auto: eager",
    )
    select: Literal["val", "test", "last"] = Field("val", description="what chooses the epoch")
    patience: Annotated[int, Field(ge=1)] | None = Field(
        None, description="end after so many epochs without a better score on what `select` names"
    )
    accumulate: Annotated[int, Field(ge=1)] = Field(
        1, description="batches whose gradients make one step; batch norm sees one batch at a time"
    )
    grad_clip: Annotated[float, Field(gt=0)] | None = Field(None, description="largest norm of the gradient")
    keep_activations: Literal["auto"] | bool = Field(
        "auto",
        description="compute the frozen first part of the network (model.freeze) once for each view and "
        "train from its activations, kept in the user cache; auto: where views come back (data.views, or no "
        "augmentation) and losses are the same; true: an error where that cannot be; false: never",
    )
    average: AverageSpec | None = Field(None, description="evaluate an average of the weights")
    deterministic: bool = Field(False, description="bit-identical on a GPU too, at a cost in speed")

    @property
    def last_epoch(self) -> int:
        """The epoch that ends the run, counted from 1."""
        return self.epochs if self.stop is None else self.stop


class TeacherConfig(Section):
    """Whose answers the student learns from, beside the labels."""

    run: tuple[str, ...] = Field(
        description="a run's name, its folder or a checkpoint; several make an ensemble"
    )
    seed: Annotated[int, Field(ge=0)] = Field(0, description="which seed of a run that is given by its name")
    cache: bool = Field(True, description="keep the teacher's answers where each view comes back")
    calibrate: bool = Field(True, description="divide its logits by what makes its validation loss least")
    image_size: Annotated[int, Field(ge=8)] | None = Field(
        None, description="pixels a side; default: its own"
    )
    precision: Literal["own", "auto", "float32", "bfloat16", "float16"] = Field(
        "own", description="own: as it was trained"
    )

    @model_validator(mode="before")
    @classmethod
    def _refuse_views(cls, value: Any) -> Any:
        if isinstance(value, Mapping) and "views" in value:
            raise ConfigError(f"teacher.views is data.views now; say data.views={value['views']}")
        return value

    @field_validator("run", mode="before")
    @classmethod
    def _names(cls, value: Any) -> tuple[str, ...]:
        names = value if isinstance(value, list | tuple) else [value]
        # YAML reads a run called 0 as a number.
        names = [str(name) if type(name) is int else name for name in names]
        if not names or not all(isinstance(name, str) and name for name in names):
            raise ConfigError(f"expected a run's name, or a list of them; got {value!r}")
        return tuple(Path(name).as_posix() for name in names)
