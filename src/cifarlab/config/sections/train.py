"""The sections `train` (the training loop) and `teacher` (the teacher of a distillation)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from cifarlab.config.sections.section import Section
from cifarlab.core.errors import ConfigError
from cifarlab.core.plain import is_mapping, is_sequence
from cifarlab.core.registries import (
    AverageSpec,
)


class TrainConfig(Section):
    """The training loop: length, seed, device, and which epoch's weights are kept."""

    epochs: Annotated[int, Field(ge=1)] = Field(
        200, description="Passes over the training pictures. Schedules span all of them."
    )
    stop: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="Epoch after which the run ends. Schedules still span `epochs`. Default: the last epoch.",
    )
    seed: Annotated[int, Field(ge=0)] = Field(
        0,
        description=(
            "Seed of initial weights, order and augmentation, and of the split if data.split_seed is null."
        ),
    )
    device: str = Field(
        "auto", description="Device to train on: auto, cpu, cuda, cuda:1. auto: a GPU if there is one."
    )
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        description="Arithmetic of forward and backward passes; weights stay float32. auto: bfloat16 where "
        "the device computes it fast, float16 on older GPUs, else float32.",
    )
    engine: Literal["auto", "eager", "compiled", "graph"] = Field(
        "auto",
        description=(
            "How steps are executed. eager: one kernel after the other. compiled: torch.compile compiles "
            "the model during the first steps. graph: steps are captured as CUDA graphs and replayed. "
            "auto: eager."
        ),
    )
    select: Literal["val", "test", "last"] = Field(
        "val",
        description=(
            "Which epoch's weights are kept: the best on val, the best on test (optimistic), or the last."
        ),
    )
    patience: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description=(
            "End the run after this many epochs without a better score on the split that `select` names. "
            "Null: never."
        ),
    )
    accumulate: Annotated[int, Field(ge=1)] = Field(
        1,
        description=(
            "Batches whose gradients are summed for one optimizer step. Batch norm sees one batch at a time."
        ),
    )
    grad_clip: Annotated[float, Field(gt=0)] | None = Field(
        None, description="Largest norm of the gradient. Larger ones are scaled down to it. Null: no limit."
    )
    keep_activations: Literal["auto"] | bool = Field(
        "auto",
        description=(
            "Compute the frozen first part of the network (model.freeze) once for each view, keep its "
            "activations in the user cache, and train from them. auto: do so if views recur "
            "(data.views, or no augmentation) and the losses stay the same. true: raise an error if that "
            "is impossible. false: never."
        ),
    )
    average: AverageSpec | None = Field(
        None,
        description=(
            "Average of the weights over the run. It is evaluated and saved in place of the weights. Null: "
            "none."
        ),
    )
    deterministic: bool = Field(
        False, description="Make results bit-identical on a GPU, too, at a cost in speed."
    )

    @property
    def last_epoch(self) -> int:
        """The last epoch, counted from 1: `stop`, or else `epochs`. `patience` may end the run earlier."""
        return self.epochs if self.stop is None else self.stop


class TeacherConfig(Section):
    """The teacher of a distillation."""

    run: tuple[str, ...] = Field(
        description="Name of a run, its folder, or a checkpoint. Several make an ensemble."
    )
    seed: Annotated[int, Field(ge=0)] = Field(0, description="Seed of a run that `run` gives by name.")
    cache: bool = Field(
        True,
        description="Cache the teacher's answers on disk if views recur (data.views, or no augmentation).",
    )
    calibrate: bool = Field(
        True, description="Divide the teacher's logits by the temperature that minimizes its validation loss."
    )
    image_size: Annotated[int, Field(ge=8)] | None = Field(
        None,
        description="Side length in pixels at which the teacher sees pictures. Default: that of its own run.",
    )
    precision: Literal["own", "auto", "float32", "bfloat16", "float16"] = Field(
        "own", description="Arithmetic of the teacher. own: that of its training."
    )

    @model_validator(mode="before")
    @classmethod
    def _refuse_views(cls, value: Any) -> Any:
        if is_mapping(value) and "views" in value:
            raise ConfigError(f"teacher.views was renamed to data.views; set data.views={value['views']}")
        return value

    @field_validator("run", mode="before")
    @classmethod
    def _names(cls, value: Any) -> tuple[str, ...]:
        names: list[Any] = [*value] if is_sequence(value) else [value]
        # YAML reads a run called 0 as a number.
        names = [str(name) if type(name) is int else name for name in names]
        if not names or not all(isinstance(name, str) and name for name in names):
            raise ConfigError(f"expected a run's name, or a list of them; got {value!r}")
        return tuple(Path(name).as_posix() for name in names)
