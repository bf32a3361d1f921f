"""The complete configuration of a run, including the checks that involve several sections.

Runs with the same identity, `Config.identity()`, are the same experiment.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import Field, ValidationError, field_validator, model_validator

from cifarlab.config.sections.data import DataConfig, MultiScale
from cifarlab.config.sections.model import ModelConfig
from cifarlab.config.sections.optim import Lookahead, OptimConfig
from cifarlab.config.sections.section import Section
from cifarlab.config.sections.train import TeacherConfig, TrainConfig
from cifarlab.core.errors import ConfigError, explain
from cifarlab.core.plain import Plain, is_dict
from cifarlab.core.registries import LossSpecs
from cifarlab.core.registry import Spec

# The lowest base of every recipe. It is merged first, so that a recipe's `name` of a part replaces a default
# one and thereby drops that part's options.
ROOT: dict[str, Plain] = {
    "data": {"dataset": {"name": "cifar100"}},
    "model": {"backbone": {"name": "resnet18"}, "head": {"name": "linear"}},
    "objective": {},
    "optim": {"name": "adamw", "schedule": {"name": "constant"}},
    "train": {},
}
# Runs that differ only in these keys are the same experiment. Kept activations are not rounded. Like the
# device, they change at most the order of sums.
NOT_IDENTITY = ("data.root", "teacher.cache", "train.device", "train.keep_activations", "imports")


class Config(Section):
    """The complete configuration of a run, validated, with all defaults.

    Each field is a section of the recipe, so `optim.lr` in a recipe is `config.optim.lr`. Make one with
    `build_config`, or with `cifarlab.config.recipes.resolve`.
    """

    data: DataConfig
    model: ModelConfig
    objective: LossSpecs = Field(description="Losses, {label: options}. The objective is their weighted sum.")
    teacher: TeacherConfig | None = None
    optim: OptimConfig
    train: TrainConfig
    imports: tuple[str, ...] = Field((), description="Python files or modules that register custom parts.")

    @field_validator("objective")
    @classmethod
    def _named_losses(cls, value: dict[str, Spec]) -> dict[str, Spec]:
        if not value:
            raise ConfigError(
                "expected at least one loss, e.g. {cross_entropy: {}}, or base: NAME to change a recipe"
            )
        for label in value:
            if label == "total":
                raise ConfigError("total is the name of the weighted sum; choose another label", (label,))
            if "." in label:
                raise ConfigError("a label becomes a metric's name; choose one without dots", (label,))
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> Config:
        if self.data.val >= 1 and self.data.val != int(self.data.val):
            raise ConfigError(
                f"expected a count, or a fraction below 1; got {self.data.val}", ("data", "val")
            )
        if self.train.last_epoch > self.train.epochs:
            raise ConfigError(f"at most train.epochs={self.train.epochs}", ("train", "stop"))
        if self.train.patience is not None and self.train.select == "last":
            raise ConfigError(
                "needs a score, and train.select=last has none; set train.select=val, or "
                "train.patience=null", ("train", "patience"))  # fmt: skip
        if self.train.accumulate > 1 and self.optim.sharpness is not None:
            raise ConfigError(
                f"optim.sharpness={self.optim.sharpness.name} needs all pictures of a step in one batch; set "
                "optim.sharpness=null, or train.accumulate=1", ("train", "accumulate"))  # fmt: skip
        if self.data.mix and self.data.batch_size % 2:
            message = (
                f"data.mix pairs neighbours in a batch, so the size must be even; got {self.data.batch_size}"
            )
            raise ConfigError(message, ("data", "batch_size"))
        for label, spec in self.objective.items():
            for is_missing, message, path in self._requirements(label, spec):
                if is_missing:
                    raise ConfigError(f"{spec.name} {message}", path)
        scale = self.data.multi_scale
        if (
            scale is not None
            and scale.per == "sample"
            and len(scale.sizes) > 1
            and "stages" in self.teacher_outputs
        ):
            raise ConfigError(
                "feature maps of different sizes do not fit into one batch; set data.multi_scale.per=batch",
                ("data", "multi_scale", "per"),
            )
        if self.teacher_outputs and self.teacher and self.data.views and self.teacher.cache:
            self._refuse_cache(self.data.views)
        return self

    def _requirements(self, label: str, loss: Spec) -> list[tuple[bool, str, tuple[str, ...]]]:
        """List what a loss requires: (whether the requirement is violated, message, path).

        `label` is the key of the loss in `objective`. `path` has the keys that lead to the option to change.
        """
        own, head, here = loss.part.traits, self.model.head, ("objective", label)
        has_products = head.part.traits.products and not head.kwargs().get("bias")
        return [
            (bool(self.data.mix) and not own.soft_targets,
             "does not support mixed targets; remove data.mix", here),
            # Such a loss over several small batches differs from the loss over one large batch.
            (self.train.accumulate > 1 and own.compares,
             "compares the pictures of a step, but each of several batches has only some of them; "
             f"set train.accumulate=1, or remove objective.{label}", ("train", "accumulate")),
            (own.needs_cosines and not head.part.traits.cosines,
             "needs a head that gives cosines; set model.head=margin", here),
            (own.needs_products and not has_products,
             "needs logits without bias; set model.head={name: linear, bias: false}", here),
            (bool(own.needs_teacher) and self.teacher is None,
             "needs a teacher; set teacher.run=<a run's name>", here),
        ]  # fmt: skip

    def _refuse_cache(self, views: int) -> None:
        path = ("teacher", "cache")
        if self.data.mix and self.data.shuffle:
            raise ConfigError(
                f"data.mix pairs neighbours in the epoch's order, which data.views={views} does not repeat, "
                "so cached answers never fit; remove data.mix, or set teacher.cache=false", path)  # fmt: skip
        if self.mixes_per_batch:
            raise ConfigError(
                "a mixer with per: batch depends on the batch size; set per: pair for each mixer, or "
                "teacher.cache=false", path)  # fmt: skip
        if "stages" in self.teacher_outputs:
            raise ConfigError("feature maps are too large to cache; set teacher.cache=false", path)

    @property
    def split_seed(self) -> int:
        """The seed that draws the validation pictures: data.split_seed, or else train.seed."""
        own = self.data.split_seed
        return self.train.seed if own is None else own

    @property
    def mixes_per_batch(self) -> bool:
        """Whether a mixer draws its random numbers once per batch.

        Then the mixed pictures depend on which samples form a batch. Otherwise a mixer draws separate
        numbers for each pair of pictures that it mixes.
        """
        return any(map(_draws_per_batch, self.data.mix.values()))

    @property
    def teacher_outputs(self) -> frozenset[str]:
        """The teacher's outputs that losses read: `logits`, `embedding`, `stages`. May be empty."""
        needs = (spec.part.traits.needs_teacher for spec in self.objective.values())
        return frozenset(need for need in needs if need)

    def dump(self) -> dict[str, Any]:
        """Return plain data from which an equal config can be built."""
        return self.model_dump(mode="json")

    def identity(self) -> dict[str, Any]:
        """Return `dump()` without the keys in NOT_IDENTITY, such as `train.device`.

        Two runs for which it returns equal dicts are the same experiment.
        """
        return identity_of(self.dump())


def _draws_per_batch(mixer: Spec) -> bool:
    choices = getattr(mixer.options, "choices", {})
    return getattr(mixer.options, "per", "pair") == "batch" or any(map(_draws_per_batch, choices.values()))


def identity_of(plain: Mapping[str, Plain]) -> dict[str, Any]:
    """Return a copy of a plain configuration without the keys in NOT_IDENTITY.

    Two runs that differ only in these keys, such as `train.device`, are the same experiment.
    """
    kept = copy.deepcopy(dict(plain))
    for path in NOT_IDENTITY:
        *sections, key = path.split(".")
        inner: Plain = kept
        for section in sections:
            inner = inner.get(section) if is_dict(inner) else None
        if is_dict(inner):
            inner.pop(key, None)
    return kept


def build_config(plain: Mapping[str, Plain]) -> Config:
    """Validate a plain configuration.

    Args:
        plain: Nested mappings in the form of a recipe that was merged with its bases. Each loss, optimizer or
            other part that it names must be registered: `cifarlab.config.recipes.import_and_validate` imports
            the parts first.

    Raises:
        ConfigError: A value is wrong. The error has the full path of the first wrong key.
    """
    try:
        return Config.model_validate(plain)
    except ValidationError as error:
        raise explain(error, keys_at) from None


def keys_at(path: tuple[str, ...]) -> Iterable[str]:
    """Return the valid keys of the section at `path`.

    They are suggested for misspelt keys. Empty if there is no section at `path`.
    """
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
