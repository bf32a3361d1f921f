"""The typed sections of a run, checked together."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_serializer,
    model_validator,
)

from cifarlab.registry import (
    OPTIMIZERS,
    AugmentSpecs,
    AverageSpec,
    BackboneSpec,
    ConfigError,
    DatasetSpec,
    HeadSpec,
    LossSpecs,
    MixSpecs,
    ScheduleSpec,
    SharpnessSpec,
    Spec,
    explain,
    unknown,
)

# What a recipe need not say; merged first, so that a change of `name` has an old name to differ from.
ROOT: dict[str, Any] = {
    "data": {"dataset": {"name": "cifar100"}},
    "model": {"backbone": {"name": "resnet18"}, "head": {"name": "linear"}},
    "objective": {},
    "optim": {"name": "adamw", "schedule": {"name": "constant"}},
    "train": {},
}
# Two runs that differ in these only are the same experiment.
NOT_IDENTITY = (("data", "root"), ("teacher", "cache"), ("train", "device"), ("imports",))


class Section(BaseModel):
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
        "is that of an equal share of the run's steps: small ones first is progressive learning",
    )

    @field_validator("sizes")
    @classmethod
    def _distinct(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or len(set(value)) < len(value):
            raise ConfigError(f"at least one size, and each once; got {[*value]}")
        return value


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
    decay_norms: bool = Field(False, description="weight decay on norms and biases too")
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
        own = {key: getattr(self, key) for key in ("lr", "weight_decay", "decay_norms", "layer_decay")}
        around = {
            "lookahead": self.lookahead and self.lookahead.model_dump(mode="json"),
            "sharpness": self.sharpness and self.sharpness.dump(),
        }
        return {"name": self.optimizer.name, **own, **self.optimizer.options.model_dump(mode="json"),
                "schedule": self.schedule.dump(), **around}  # fmt: skip


class TrainConfig(Section):
    """The loop."""

    epochs: Annotated[int, Field(ge=1)] = 200
    stop: Annotated[int, Field(ge=1)] | None = Field(
        None, description="end after this epoch; schedules still span `epochs`; default: the last"
    )
    seed: Annotated[int, Field(ge=0)] = 0
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1")
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    select: Literal["val", "test", "last"] = Field("val", description="what chooses the epoch")
    patience: Annotated[int, Field(ge=1)] | None = Field(
        None, description="end after so many epochs without a better score on what `select` names"
    )
    accumulate: Annotated[int, Field(ge=1)] = Field(
        1,
        description="batches whose gradients make one step; batch norm, and losses that compare pictures, "
        "see one batch",
    )
    grad_clip: Annotated[float, Field(gt=0)] | None = Field(None, description="largest norm of the gradient")
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
    views: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="show only so many views of each picture, epoch after epoch in turn; default: no end",
    )
    cache: bool = Field(True, description="keep the teacher's answers where each view comes back")
    calibrate: bool = Field(True, description="divide its logits by what makes its validation loss least")
    image_size: Annotated[int, Field(ge=8)] | None = Field(
        None, description="pixels a side; default: its own"
    )
    precision: Literal["own", "auto", "float32", "bfloat16", "float16"] = Field(
        "own", description="own: as it was trained"
    )

    @field_validator("run", mode="before")
    @classmethod
    def _names(cls, value: Any) -> tuple[str, ...]:
        names = value if isinstance(value, list | tuple) else [value]
        # YAML reads a run called 0 as a number.
        names = [str(name) if type(name) is int else name for name in names]
        if not names or not all(isinstance(name, str) and name for name in names):
            raise ConfigError(f"expected a run's name, or a list of them; got {value!r}")
        return tuple(names)


class Config(Section):
    """A run, whole: every default filled in, every part checked."""

    data: DataConfig
    model: ModelConfig
    objective: LossSpecs
    teacher: TeacherConfig | None = None
    optim: OptimConfig
    train: TrainConfig
    imports: tuple[str, ...] = Field((), description="Python files or modules that register parts")

    @field_validator("objective")
    @classmethod
    def _some_loss(cls, value: dict[str, Spec]) -> dict[str, Spec]:
        if not value:
            raise ConfigError("needs at least one loss, e.g. {cross_entropy: {}}")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> Config:
        if self.data.val >= 1 and self.data.val != int(self.data.val):
            raise ConfigError(f"a count, or a fraction below 1; got {self.data.val}", ("data", "val"))
        if self.train.last_epoch > self.train.epochs:
            raise ConfigError(f"at most train.epochs, {self.train.epochs}", ("train", "stop"))
        if self.train.patience is not None and self.train.select == "last":
            raise ConfigError(
                "has no score to wait for where train.select=last; say train.select=val, or "
                "train.patience=null", ("train", "patience"))  # fmt: skip
        if self.train.accumulate > 1 and self.optim.sharpness is not None:
            raise ConfigError(
                f"{self.optim.sharpness.name} needs all pictures of a step at once; say "
                "optim.sharpness=null, or train.accumulate=1", ("train", "accumulate"))  # fmt: skip
        if self.data.mix and self.data.batch_size % 2:
            message = (
                f"mixing pairs neighbours in a batch, so it needs an even size; got {self.data.batch_size}"
            )
            raise ConfigError(message, ("data", "batch_size"))
        for label, spec in self.objective.items():
            traits = spec.part.traits
            if self.data.mix and not traits.get("soft_targets", True):
                raise ConfigError(
                    f"{spec.name} has no form for mixed targets; remove data.mix", ("objective", label)
                )
            if traits.get("needs_cosines") and not self.model.head.part.traits.get("cosines"):
                message = f"{spec.name} needs a head that compares directions; say model.head=margin"
                raise ConfigError(message, ("objective", label))
            head = self.model.head
            has_products = head.part.traits.get("products") and not head.kwargs().get("bias")
            if traits.get("needs_products") and not has_products:
                message = (
                    f"{spec.name} needs logits without bias; say model.head={{name: linear, bias: false}}"
                )
                raise ConfigError(message, ("objective", label))
            if traits.get("needs_teacher") and self.teacher is None:
                message = f"{spec.name} learns from a teacher; say teacher.run=<a run's name>"
                raise ConfigError(message, ("objective", label))
        scale = self.data.multi_scale
        if scale is not None and scale.per == "sample" and len(scale.sizes) > 1 and "stages" in self.lessons:
            raise ConfigError(
                "feature maps of several sizes cannot be put together; say data.multi_scale.per=batch",
                ("data", "multi_scale", "per"),
            )
        if self.lessons and self.teacher and self.teacher.views and self.teacher.cache:
            self._refuse_cache(self.teacher.views)
        return self

    def _refuse_cache(self, views: int) -> None:
        path = ("teacher", "cache")
        if self.data.mix and self.data.shuffle:
            raise ConfigError(
                f"data.mix pairs neighbours in the epoch's order, which {views} views do not repeat: nothing "
                "could be kept; remove data.mix, or say teacher.cache=false", path)  # fmt: skip
        if any(map(_draws_per_batch, self.data.mix.values())):
            raise ConfigError(
                "what a mixer makes per batch depends on the batch's size; say per: pair for each, or "
                "teacher.cache=false", path)  # fmt: skip
        if "stages" in self.lessons:
            raise ConfigError("feature maps are too large to be kept; say teacher.cache=false", path)

    @property
    def split_seed(self) -> int:
        """What draws the validation pictures."""
        own = self.data.split_seed
        return self.train.seed if own is None else own

    @property
    def lessons(self) -> frozenset[str]:
        """What the losses read of a teacher: logits, embedding, stages; empty where none has one."""
        needs = (spec.part.traits.get("needs_teacher") for spec in self.objective.values())
        return frozenset(need for need in needs if need)

    def dump(self) -> dict[str, Any]:
        """Plain data from which `resolve` builds an equal config."""
        return self.model_dump(mode="json")

    def identity(self) -> dict[str, Any]:
        """`dump()` without what may change between two sittings of the same run."""
        plain = self.dump()
        return without_places(plain)


def _draws_per_batch(mixer: Spec) -> bool:
    choices = getattr(mixer.options, "choices", {})
    return getattr(mixer.options, "per", "pair") == "batch" or any(map(_draws_per_batch, choices.values()))


def without_places(plain: dict[str, Any]) -> dict[str, Any]:
    """A saved configuration less the keys of NOT_IDENTITY."""
    plain = copy.deepcopy(plain)
    for *sections, key in NOT_IDENTITY:
        inner: Any = plain
        for section in sections:
            inner = inner.get(section) if isinstance(inner, dict) else None
        if isinstance(inner, dict):
            inner.pop(key, None)
    return plain


def build(plain: Mapping[str, Any]) -> Config:
    """Check merged plain data. Raises ConfigError with the full path of the first key that is wrong."""
    try:
        return Config.model_validate(plain)
    except ValidationError as error:
        raise explain(error, keys_at) from None


def keys_at(path: tuple[str, ...]) -> Iterable[str]:
    """The keys of the section at `path`, for `did you mean`."""
    sections = {
        "data": DataConfig, "model": ModelConfig, "teacher": TeacherConfig, "optim": OptimConfig,
        "train": TrainConfig,
    }  # fmt: skip
    if not path:
        return Config.model_fields
    if path == ("data", "multi_scale"):
        return MultiScale.model_fields
    if path == ("optim", "lookahead"):
        return Lookahead.model_fields
    return sections[path[0]].model_fields if path[0] in sections and len(path) == 1 else ()
