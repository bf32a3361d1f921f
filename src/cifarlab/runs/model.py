"""Trained models: what a run keeps of its chosen epoch, read back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
from pydantic import ConfigDict, Field, ValidationError

from cifarlab.config import ModelConfig
from cifarlab.config.recipes import Recipe
from cifarlab.config.saved import NAME_THEM, SavedConfig, checked_unimported
from cifarlab.core import checkpoints
from cifarlab.core.device import Precision, pick_device, pick_precision
from cifarlab.core.errors import ConfigError, explain
from cifarlab.core.strict_numbers import Strict
from cifarlab.models.classifier import Classifier, build_classifier, to_device
from cifarlab.runs.folder import Run

# What best.pt holds: a model that stands alone.
BEST = ("model", "config", "classes", "store_size", "fingerprint", "row")


class _Row(Strict):
    model_config = ConfigDict(extra="ignore")

    epoch: Annotated[int, Field(ge=1)]


class _Kept(Strict):
    """What a checkpoint says beside the weights and the configuration."""

    model_config = ConfigDict(extra="ignore")

    classes: Annotated[tuple[str, ...], Field(min_length=1)]
    # Pictures are decoded at this size: no file may ask for more memory than a machine has.
    store_size: Annotated[int, Field(ge=1, le=10_000)]
    fingerprint: dict[str, str]
    row: _Row


@dataclass(frozen=True)
class Trained:
    """A run's chosen model and what its checkpoint says of the experiment.

    precision: the arithmetic that it was trained in, where the device has it. store_size: pixels a side of
    the pictures it was given. fingerprint: of its data, by part. epoch: the chosen one. file: the checkpoint.
    """

    model: Classifier
    saved: SavedConfig
    precision: Precision
    store_size: int
    fingerprint: dict[str, str]
    epoch: int
    file: Path

    def at(self, root: str | None) -> Trained:
        """The same, with its data set at `root`; None: where the run found it."""
        return replace(self, saved=self.saved.at(root))


def load(run: Path | str, device: str = "cpu", imports: Sequence[Path | str] = ()) -> Classifier:
    """The chosen model of a run, in evaluation mode.

    It takes pictures (B, 3, H, W) of any size, uint8 or floats in [0, 1], and answers with an `Output`;
    `classes` holds the labels' names. imports: the Python files or modules that register the run's own parts,
    where it has such; what a checkpoint itself names is never run. Raises ConfigError where the folder holds
    no finished epoch, and where a part is registered by nobody.
    """
    return load_trained(run, device, imports).model


def load_trained(
    path: Path | str, device: str = "cpu", imports: Sequence[Path | str] = (), fix: str = NAME_THEM
) -> Trained:
    """The chosen model of a run (its folder, or its best.pt), and what it was trained on.

    imports, fix: as of `SavedConfig`. Raises ConfigError as `load` does, and for a file that is cut off or
    something else.
    """
    place_on = pick_device(device)
    file = best_of(path)
    state = checkpoints.load_checkpoint(file, BEST)
    saved = SavedConfig(state["config"], file, imports, fix)
    try:
        kept = _Kept.model_validate(state)
    except ValidationError as error:
        raise ConfigError(f"{file}: damaged: {explain(error, lambda _: ())}") from None
    model = unloaded(saved.model, saved.image_size, kept.classes)
    try:
        model.load_state_dict(state["model"])
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"{file}: its weights do not fit its own configuration: {reason}") from None
    model = to_device(model, place_on).eval()
    model.store_size = kept.store_size
    precision = _own_precision(saved.precision, place_on)
    return Trained(model, saved, precision, kept.store_size, kept.fingerprint, kept.row.epoch, file)


def saved_recipe(run: Run, imports: Sequence[Path | str] = ()) -> Recipe:
    """Return a run's configuration as a recipe. imports: as of `checked_unimported`."""
    plain, summary = run.plain_config(), run.summary()
    known = checked_unimported(plain, run.folder, imports).imports
    name = (summary.recipe if summary is not None else "") or run.name
    return Recipe(name, run.config_path, None, {}, {**plain, "imports": [*known]}, run.recipe_files)


def refuse_other_classes(
    path: Path | str, known: Sequence[str], classes: Sequence[str], here: str = "this run", fix: str = ""
) -> None:
    """Raise ConfigError unless `classes`, those of what is `here`, are the ones that a model knows."""
    if len(known) != len(classes):
        raise ConfigError(f"{path} tells {len(known)} classes apart, {here} has {len(classes)}{fix}")
    for label, (there, ours) in enumerate(zip(known, classes, strict=True)):
        if there != ours:
            raise ConfigError(f"{path} calls class {label} {there!r}, {here} {ours!r}: other classes{fix}")


def unloaded(config: ModelConfig, image_size: int, classes: Sequence[str]) -> Classifier:
    """Build a classifier on the CPU, as written, with random weights and no statistics."""
    statistics = ((0.0,) * 3, (1.0,) * 3)  # A checkpoint holds its own.
    return build_classifier(config, image_size, len(classes), statistics, classes=classes, initial=False)


def _own_precision(own: str, device: torch.device) -> Precision:
    """The arithmetic in which a run was trained; float16 needs a GPU, so elsewhere `auto`'s is used."""
    return pick_precision("auto" if own == "float16" and device.type != "cuda" else own, device)


def best_of(path: Path | str) -> Path:
    """The checkpoint of a run's chosen epoch; a file stands for itself. Raises ConfigError."""
    path = Path(path)
    if path.is_file():
        if path.name == "last.pt":
            raise ConfigError(f"{path} is what its run goes on from; name {path.with_name('best.pt')}")
        return path
    run = Run(path)
    if not run.folder.is_dir():
        raise ConfigError(f"{run}: no such run")
    return checkpoints.best_in(run.folder)
