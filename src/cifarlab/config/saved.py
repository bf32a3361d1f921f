"""Saved configurations of runs, of which each section can be validated separately.

Files and modules listed under `imports` in a saved configuration are never imported: reading a run must not
run its code.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from cifarlab.config.config import Config, build_config, keys_at
from cifarlab.config.imports import import_named, module_of
from cifarlab.config.merge import apply_before
from cifarlab.config.sections.data import DataConfig
from cifarlab.config.sections.model import ModelConfig
from cifarlab.config.sections.section import Section
from cifarlab.config.sections.train import TrainConfig
from cifarlab.core.errors import ConfigError, explain
from cifarlab.core.plain import Plain, is_dict, is_mapping, is_sequence

# The advice if a run has custom parts and the caller did not name their files.
NAME_THEM = "name each with --imports (in Python: imports=[...])"


class _Model(Section):
    model: ModelConfig


class _Data(Section):
    data: DataConfig


class _Train(Section):
    train: TrainConfig


# The values that are read from a saved configuration without validating a registered part.
_DATA_FACTS, _TRAIN_FACTS = ("image_size", "split_seed"), ("seed", "precision", "select")


_Section = TypeVar("_Section", bound=BaseModel)


class SavedConfig:
    """The configuration in a checkpoint or a run's folder.

    The constructor validates the section `model` and the options listed below. So a model can be loaded even
    if losses, optimizer or augmentations of its run are no longer registered. The properties `data` and
    `whole` validate more, when they are first read. The files and modules that the configuration itself lists
    under `imports` are not imported.

    Args:
        plain: The configuration as it was saved.
        where: File or folder of the configuration, for messages.
        imports: Python files or modules that register the run's custom parts. They are imported.
        fix: Advice to add to the message if a custom part is missing.

    Attributes:
        plain: The configuration as plain data. Options that were renamed since have their current names.
        where: File or folder of the configuration.
        model: The section `model`.
        image_size: `data.image_size`.
        split_seed: Seed that drew the validation pictures: `data.split_seed`, or else `train.seed`.
        seed: `train.seed`.
        precision: `train.precision`.
        select: `train.select`.

    Raises:
        ConfigError: The section `model` or one of these options is malformed, or the model has a part that is
            not registered.
    """

    def __init__(
        self,
        plain: object,
        where: Path,
        *,
        imports: Sequence[Path | str] = (),
        fix: str = NAME_THEM,
    ):
        if not is_mapping(plain):
            raise ConfigError(f"{where}: its configuration is damaged: expected sections, got {plain!r:.40}")
        self.plain, self.where, self._fix = translate_saved(plain), where, fix
        self._named = import_named(imports)
        self.model = self._section(_Model, {"model": self.plain.get("model")}).model
        data, train = (self.plain.get(key) for key in ("data", "train"))
        # The section needs a data set, but the values read here do not depend on which one.
        data = {"dataset": "synthetic", **_only(data, _DATA_FACTS)} if is_dict(data) else data
        train = _only(train, _TRAIN_FACTS) if is_dict(train) else train
        pictures = self._section(_Data, {"data": data}).data
        loop = self._section(_Train, {"train": train}).train
        self.image_size, self.precision = pictures.image_size, loop.precision
        self.seed, self.select = loop.seed, loop.select
        self.split_seed = self.seed if pictures.split_seed is None else pictures.split_seed

    @property
    def imports(self) -> list[str]:
        """Imported files and modules with custom parts.

        They are the constructor's argument `imports`, and the entries of the configuration's option `imports`
        that this process had already imported.
        """
        return _known(self.plain, self._named)

    @cached_property
    def data(self) -> DataConfig:
        """The section `data`, with empty `augment` and `mix`.

        Raises:
            ConfigError: A value is wrong, or the data set is not registered.
        """
        data = self.plain.get("data")
        plain: Plain = {**data, "augment": {}, "mix": {}} if is_dict(data) else data
        return self._section(_Data, {"data": plain}).data

    @cached_property
    def whole(self) -> Config:
        """The complete configuration, validated.

        Raises:
            ConfigError: A value is wrong, or a part is not registered.
        """
        return validate_saved(self.plain, self.where, imports=self._named, fix=self._fix)

    def with_data_root(self, root: str | None) -> SavedConfig:
        """Return the configuration with another `data.root`. None leaves it unchanged."""
        if root is None:
            return self
        moved = copy.copy(self)
        moved.plain = copy.deepcopy(self.plain)
        moved.plain["data"]["root"] = str(Path(root).expanduser().absolute())
        for kept in ("data", "whole"):
            moved.__dict__.pop(kept, None)
        return moved

    def _section(self, kind: type[_Section], plain: Mapping[str, Plain]) -> _Section:
        try:
            return kind.model_validate(plain)
        except ValidationError as error:
            found = explain(error, keys_at)
            raise _explained(found, self.plain, self.where, self._named, self._fix) from None


def validate_saved(
    plain: Mapping[str, Plain], where: Path, *, imports: Sequence[Path | str] = (), fix: str = NAME_THEM
) -> Config:
    """Validate a complete configuration without importing its own `imports`.

    Args:
        plain: The configuration of a run or a recipe.
        where: File or folder of the configuration, for messages.
        imports: Python files or modules that register custom parts. They are imported.
        fix: Advice to add to the message if a custom part is missing.

    Returns:
        The configuration. Its `imports` has the entries of the argument `imports`, then the entries of
        `plain["imports"]` that this process had already imported.

    Raises:
        ConfigError: A part is not registered, or a value is wrong.
    """
    named = import_named(imports)
    try:
        return build_config(apply_before({**plain, "imports": _known(plain, named)}))
    except ConfigError as error:
        raise _explained(error, plain, where, named, fix) from None


def _only(section: Mapping[str, Plain], keys: Sequence[str]) -> dict[str, Plain]:
    return {key: section[key] for key in keys if key in section}


def _own_imports(plain: Mapping[str, Plain]) -> list[str]:
    own = plain.get("imports")
    return [str(entry) for entry in own] if is_sequence(own) else []


def _known(plain: Mapping[str, Plain], named: Sequence[str]) -> list[str]:
    """Return `named`, then the entries of `plain["imports"]` that are already imported."""
    own = _own_imports(plain)
    return list(dict.fromkeys([*named, *(entry for entry in own if module_of(entry) in sys.modules)]))


def _explained(
    error: ConfigError, plain: Mapping[str, Plain], where: Path, named: Sequence[str], fix: str
) -> ConfigError:
    """Return the error with `where` in its message.

    If a custom part is missing because the configuration's `imports` were not imported, add advice.
    """
    known = _known(plain, named)
    unasked = [entry for entry in _own_imports(plain) if entry not in known]
    # Do not advise to run foreign code for an error that it cannot fix.
    if unasked and error.message.startswith("unknown "):
        files = ", ".join(unasked)
        return ConfigError(
            f"{where} has custom parts from {files}, which are not run automatically; if you trust them, "
            f"{fix} ({error})"
        )
    return ConfigError(f"{where}: {error}")


def translate_saved(plain: Mapping[str, Plain]) -> dict[str, Any]:
    """Rename options of a saved configuration to their current names.

    `teacher.views` becomes `data.views`, unless it is null, which was its default. Malformed sections stay
    unchanged: the later validation reports them.
    """
    translated = copy.deepcopy(dict(plain))
    teacher, data = translated.get("teacher"), translated.get("data")
    if is_dict(teacher) and "views" in teacher and is_dict(data):
        views = teacher.pop("views")
        if views is not None:
            data["views"] = views
    return translated
