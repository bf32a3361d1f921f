"""Configurations that lie with a run: read section by section, without running what they name."""

from __future__ import annotations

import copy
import sys
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from cifarlab.config.config import Config, build_config, keys_at
from cifarlab.config.imports import import_named, module_of
from cifarlab.config.merge import order
from cifarlab.config.sections.data import DataConfig
from cifarlab.config.sections.model import ModelConfig
from cifarlab.config.sections.section import Section
from cifarlab.config.sections.train import TrainConfig
from cifarlab.core.errors import ConfigError, explain
from cifarlab.core.plain import Plain

# What to do where a run has parts of its own, and nobody said from where.
NAME_THEM = "name each with --imports (in Python: imports=[...])"


class _Model(Section):
    model: ModelConfig


class _Data(Section):
    data: DataConfig


class _Train(Section):
    train: TrainConfig


# What is read of a saved configuration without asking for a registered part.
_DATA_FACTS, _TRAIN_FACTS = ("image_size", "split_seed"), ("seed", "precision", "select")


_Section = TypeVar("_Section", bound=BaseModel)


class SavedConfig:
    """The configuration that a checkpoint or a run's folder holds.

    Reading it validates the model's section alone: a model loads where the experiment's losses, optimizer or
    augmentations are registered no more. The data section is validated when it is first asked for, without
    augmentation and mixing. Nothing that the configuration names is imported.

    Args:
        plain: The configuration as it was saved.
        where: The file or folder that holds it, for messages.
        imports: Python files or modules that register the run's own parts, as the caller names them.
        fix: What a message tells the user to do if a part is missing.

    Raises:
        ConfigError: If the section of the model is malformed, or names a part that is not registered.
    """

    def __init__(
        self,
        plain: Mapping[str, Plain],
        where: Path,
        imports: Sequence[Path | str] = (),
        fix: str = NAME_THEM,
    ):
        if not isinstance(plain, Mapping):
            raise ConfigError(f"{where}: its configuration is damaged: expected sections, got {plain!r:.40}")
        self.plain, self.where, self._fix = translate_saved(plain), where, fix
        self._named = import_named(imports)
        self.model = self._section(_Model, {"model": self.plain.get("model")}).model
        data, train = (self.plain.get(key) for key in ("data", "train"))
        # Any data set does: what is asked for does not depend on it.
        data = {"dataset": "synthetic", **_only(data, _DATA_FACTS)} if isinstance(data, dict) else data
        train = _only(train, _TRAIN_FACTS) if isinstance(train, dict) else train
        pictures = self._section(_Data, {"data": data}).data
        loop = self._section(_Train, {"train": train}).train
        self.image_size, self.precision = pictures.image_size, loop.precision
        self.seed, self.select = loop.seed, loop.select
        self.split_seed = self.seed if pictures.split_seed is None else pictures.split_seed

    @property
    def imports(self) -> list[str]:
        """What registered its own parts: files and modules that the caller named or this process knows."""
        return _known(self.plain, self._named)

    @cached_property
    def data(self) -> DataConfig:
        """Its pictures, without augmentation and mixing. Raises ConfigError if they are not registered."""
        data = self.plain.get("data")
        plain = {**data, "augment": {}, "mix": {}} if isinstance(data, dict) else data
        return self._section(_Data, {"data": plain}).data

    @cached_property
    def whole(self) -> Config:
        """The experiment, every part of it checked. Raises ConfigError if a part is not registered."""
        return checked_unimported(self.plain, self.where, self._named, self._fix)

    def at(self, root: str | None) -> SavedConfig:
        """Return the same with its data set at `root`; None leaves it where the run found it."""
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


def checked_unimported(
    plain: Mapping[str, Plain], where: Path, imports: Sequence[Path | str] = (), fix: str = NAME_THEM
) -> Config:
    """Check a whole configuration without importing what it names.

    Args:
        plain: The configuration, as a run saved it or as a recipe gives it.
        where: The file or folder that holds it, for messages.
        imports: Python files or modules that register its own parts, as the caller names them. They are the
            `imports` of the result, with those that the configuration names and this process knows.
        fix: What a message tells the user to do if a part is missing.

    Raises:
        ConfigError: If a part is not registered, or a value is wrong.
    """
    named = import_named(imports)
    try:
        return build_config(order({**plain, "imports": _known(plain, named)}))
    except ConfigError as error:
        raise _explained(error, plain, where, named, fix) from None


def _only(section: Mapping[str, Plain], keys: Sequence[str]) -> dict[str, Plain]:
    return {key: section[key] for key in keys if key in section}


def _own_imports(plain: Mapping[str, Plain]) -> list[str]:
    own = plain.get("imports")
    return [str(entry) for entry in own] if isinstance(own, list | tuple) else []


def _known(plain: Mapping[str, Plain], named: Sequence[str]) -> list[str]:
    """`named`, and what the configuration names and this process has imported before."""
    own = _own_imports(plain)
    return list(dict.fromkeys([*named, *(entry for entry in own if module_of(entry) in sys.modules)]))


def _explained(
    error: ConfigError, plain: Mapping[str, Plain], where: Path, named: Sequence[str], fix: str
) -> ConfigError:
    """The error with the place of the configuration, and with what would register its parts."""
    known = _known(plain, named)
    unasked = [entry for entry in _own_imports(plain) if entry not in known]
    # Nobody is asked to run a stranger's code for an error that it cannot mend.
    if unasked and error.message.startswith("unknown "):
        files = ", ".join(unasked)
        return ConfigError(
            f"{where} has parts of its own, from {files}, which are not run unasked; if you trust them, {fix}"
            f" ({error})"
        )
    return ConfigError(f"{where}: {error}")


def translate_saved(plain: Mapping[str, Plain]) -> dict[str, Plain]:
    """Rename the options of a saved configuration that have other names now.

    `teacher.views` is `data.views` now; null, its default, is dropped. What is no section is left as it is:
    whoever checks the configuration explains it.
    """
    translated = copy.deepcopy(dict(plain))
    teacher, data = translated.get("teacher"), translated.get("data")
    if isinstance(teacher, dict) and "views" in teacher and isinstance(data, dict):
        views = teacher.pop("views")
        if views is not None:
            data["views"] = views
    return translated
