"""Trained models, loaded from a run's `best.pt`.

`best.pt` holds the weights of the chosen epoch, which is the one that `train.select` selects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
from pydantic import ConfigDict, Field, ValidationError
from torch import Tensor

from cifarlab.config import ModelConfig
from cifarlab.config.recipes import Recipe
from cifarlab.config.saved import NAME_THEM, SavedConfig, validate_saved
from cifarlab.core import checkpoints
from cifarlab.core.device import Precision, pick_device, pick_precision
from cifarlab.core.errors import ConfigError, explain, reason_of
from cifarlab.core.strict_numbers import Strict
from cifarlab.models.classifier import Classifier, build_classifier, to_device
from cifarlab.runs.folder import Run

# Keys of best.pt, a standalone checkpoint.
BEST = ("model", "config", "classes", "store_size", "fingerprint", "row")


class _Row(Strict):
    model_config = ConfigDict(extra="ignore")

    epoch: Annotated[int, Field(ge=1)]


class _CheckpointFacts(Strict):
    """The contents of `best.pt` except the configuration, validated."""

    model_config = ConfigDict(extra="ignore", arbitrary_types_allowed=True)

    model: dict[str, Tensor]

    classes: Annotated[tuple[str, ...], Field(min_length=1)]
    # Pictures are decoded at this size. The limit keeps a file from demanding absurd amounts of memory.
    store_size: Annotated[int, Field(ge=1, le=10_000)]
    fingerprint: dict[str, str]
    row: _Row


@dataclass(frozen=True)
class Trained:
    """The model of a run's chosen epoch, with facts from its checkpoint.

    Attributes:
        model: The classifier, in evaluation mode.
        saved: The configuration in the checkpoint.
        precision: The device, and the dtype that the model computes in there, by the run's `train.precision`.
            A run in float16 uses the choice of `auto` on a CPU, since float16 needs a GPU.
        store_size: Side length in pixels at which the training pictures were stored.
        fingerprint: For each part of the data set that training read (`train`, `val`, `test`), a hash of
            the pictures and labels in it.
        epoch: The chosen epoch, from 1.
        file: Path of the checkpoint.
    """

    model: Classifier
    saved: SavedConfig
    precision: Precision
    store_size: int
    fingerprint: dict[str, str]
    epoch: int
    file: Path

    def with_data_root(self, root: str | None) -> Trained:
        """Return a copy with another `data.root`. None leaves it unchanged."""
        return replace(self, saved=self.saved.with_data_root(root))


def load(run: Run | Path | str, *, device: str = "cpu", imports: Sequence[Path | str] = ()) -> Classifier:
    """Load the model in a run's `best.pt`, in evaluation mode.

    `best.pt` holds the weights of the epoch that `train.select` chose, e.g. the one with the best validation
    accuracy.

    Args:
        run: The run, its folder, or a checkpoint.
        device: Device to load the model to: `cpu`, `cuda`, `cuda:1`, ..., or `auto`.
        imports: Python files or modules that register the run's custom parts. Files that the checkpoint names
            are not run unless they are given here.

    Returns:
        The classifier. It takes pictures (B, 3, H, W) of any size, uint8 or floats in [0, 1], and returns an
        `Output`. Its attribute `classes` has the names of the classes.

    Raises:
        ConfigError: The folder has no finished epoch, the checkpoint is damaged, or a part of the model is
            not registered.

    Example:
        >>> run = cifarlab.train("demo", {"train.epochs": 2})
        >>> model = cifarlab.load(run)
        >>> output = model(torch.zeros(4, 3, 32, 32, dtype=torch.uint8))
        >>> output.logits.shape == (4, len(model.classes))
        True
    """
    return load_trained(run, device=device, imports=imports).model


def load_trained(
    path: Run | Path | str,
    *,
    device: str = "cpu",
    imports: Sequence[Path | str] = (),
    fix: str = NAME_THEM,
) -> Trained:
    """Load the model in a run's `best.pt`, with configuration and further facts.

    `best.pt` holds the weights of the epoch that `train.select` chose, e.g. the one with the best validation
    accuracy.

    Args:
        path: The run, its folder, or a checkpoint, which is loaded instead of `best.pt`.
        device: As in `load`.
        imports: As in `load`.
        fix: Advice to add to the message if a custom part is missing.

    Raises:
        ConfigError: As in `load`.
    """
    place_on = pick_device(device, path=("device",))
    file = best_of(path)
    state = checkpoints.load_checkpoint(file, BEST)
    saved = SavedConfig(state["config"], file, imports=imports, fix=fix)
    try:
        facts = _CheckpointFacts.model_validate(state)
    except ValidationError as error:
        raise ConfigError(f"{file}: damaged: {explain(error, lambda _: ())}") from None
    model = build_for_loading(saved.model, saved.image_size, facts.classes)
    try:
        model.load_state_dict(state["model"])
    except RuntimeError as error:
        reason = reason_of(error, limit=200)
        raise ConfigError(f"{file}: its weights do not fit its own configuration: {reason}") from None
    model = to_device(model, place_on).eval()
    model.store_size = facts.store_size
    precision = _own_precision(saved.precision, place_on)
    return Trained(model, saved, precision, facts.store_size, facts.fingerprint, facts.row.epoch, file)


def saved_recipe(run: Run, *, imports: Sequence[Path | str] = ()) -> Recipe:
    """Return the configuration of a run as a recipe. `imports` is as in `validate_saved`."""
    plain, summary = run.plain_config(), run.summary()
    known = validate_saved(plain, run.folder, imports=imports).imports
    name = (summary.recipe if summary is not None else "") or run.name
    return Recipe(name, run.config_path, None, {}, {**plain, "imports": [*known]}, run.recipe_files)


def refuse_other_classes(
    path: Path | str, known: Sequence[str], classes: Sequence[str], *, here: str = "this run", fix: str = ""
) -> None:
    """Raise ConfigError if a model was trained on other classes.

    Args:
        path: Run or checkpoint of the model, for the message.
        known: Names of the model's classes. The index of a name is the label of the class.
        classes: Names of the classes that the model must have, in the same order.
        here: Words in the message for what has `classes`, e.g. `the data set cifar10`.
        fix: Advice to append to the message.
    """
    if len(known) != len(classes):
        raise ConfigError(f"{path} has {len(known)} classes, {here} has {len(classes)}{fix}")
    for label, (there, ours) in enumerate(zip(known, classes, strict=True)):
        if there != ours:
            raise ConfigError(f"{path} calls class {label} {there!r}, {here} {ours!r}: other classes{fix}")


def build_for_loading(config: ModelConfig, image_size: int, classes: Sequence[str]) -> Classifier:
    """Build a classifier with random weights, to load a checkpoint into."""
    statistics = ((0.0,) * 3, (1.0,) * 3)  # Placeholders: the checkpoint has the mean and deviation.
    return build_classifier(
        config, image_size, len(classes), dataset_mean_std=statistics, classes=classes, initial=False
    )


def _own_precision(own: str, device: torch.device) -> Precision:
    """Return the precision for a run's model: its own, or `auto` for float16 without a GPU."""
    return pick_precision("auto" if own == "float16" and device.type != "cuda" else own, device)


def best_of(path: Run | Path | str) -> Path:
    """Return the path of a run's `best.pt`. The path of a checkpoint is returned unchanged.

    Raises:
        ConfigError: There is no such run or checkpoint, or the path is a `last.pt`.
    """
    path = Path(path)
    if path.is_file():
        if path.name == "last.pt":
            raise ConfigError(f"{path} serves only to resume its run; name {path.with_name('best.pt')}")
        return path
    run = Run(path)
    if not run.folder.is_dir():
        raise ConfigError(f"{run}: no such run")
    return checkpoints.best_in(run.folder)
