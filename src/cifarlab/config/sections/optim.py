"""The section `optim`: the optimizer and its learning rate."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_serializer, model_validator

from cifarlab.config.sections.section import Section
from cifarlab.core.errors import ConfigError, unknown
from cifarlab.core.plain import is_mapping
from cifarlab.core.registries import OPTIMIZERS, ScheduleSpec, SharpnessSpec
from cifarlab.core.registry import Spec


class Lookahead(Section):
    """Lookahead around any optimizer: slow weights follow the fast ones (Zhang et al. 2019).

    The optimizer updates the fast weights. The slow weights start as a copy of the fast weights, made after
    the first `steps` steps.
    """

    steps: Annotated[int, Field(ge=1)] = Field(
        5, description="Optimizer steps between two updates of the slow weights."
    )
    alpha: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.5, description="Share of the distance to the fast weights by which an update moves the slow ones."
    )


class OptimConfig(Section):
    """The optimizer with its options, and the schedule of its learning rate.

    In a recipe, the optimizer's `name` and options are keys of this section. In this class, the attribute
    `optimizer` holds them as a `Spec`.
    """

    lr: Annotated[float, Field(gt=0)] = Field(1e-3, description="Learning rate at the schedule's peak.")
    weight_decay: Annotated[float, Field(ge=0)] = Field(
        0.0,
        description=(
            "Weight decay, as the optimizer defines it. Norms and biases are excluded unless decay_norms is "
            "true."
        ),
    )
    decay_norms: bool = Field(
        False, description="Apply weight decay to norms, biases, class tokens and position embeddings, too."
    )
    norm_rate: Annotated[float, Field(gt=0)] = Field(
        1.0, description="Learning rate of norms and biases, as a multiple of the rate of the other weights."
    )
    layer_decay: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0,
        description=(
            "Learning rate of each layer as a multiple of the rate of the layer above it. The head has "
            "the full rate. 1: equal rates."
        ),
    )
    schedule: ScheduleSpec = Field(
        description="Course of the learning rate over the run, see `cifarlab parts optim.schedule`."
    )
    lookahead: Lookahead | None = Field(
        None,
        description=(
            "Lookahead: slow weights that follow the optimizer's. {steps, alpha}, or {} for the defaults. "
            "Null: none."
        ),
    )
    sharpness: SharpnessSpec | None = Field(
        None,
        description=(
            "Sharpness-aware minimization, sam or asam: a second pass computes the gradient at the nearby "
            "weights of highest loss. Null: none."
        ),
    )
    optimizer: Annotated[Spec, Field(exclude=True)]

    @model_validator(mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        if not is_mapping(value):
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
