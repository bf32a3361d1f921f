"""The experiments of DocsaidLab's published CIFAR-100 tutorial.

Each can be trained as the tutorial's code does it ("as run"), or without that code's defects ("corrected").
"""

from __future__ import annotations

from dataclasses import dataclass

from cifarlab.config import Config
from cifarlab.config.recipes import read_recipe, recipe_names, resolve

# Prefix of the names of runs as published.
AS_RUN = "as_run/"


@dataclass(frozen=True)
class Setting:
    """A recipe of the package, and overrides of it.

    Attributes:
        recipe: Name of the recipe.
        overrides: Overrides in the command line's form, e.g. `data.image_size=224`.
    """

    recipe: str
    overrides: tuple[str, ...] = ()

    def config(self, *overrides: str) -> Config:
        """Resolve `recipe` with the overrides of this setting, then the given ones.

        Raises:
            ConfigError: An override does not fit.
        """
        return resolve(read_recipe(self.recipe), [*self.overrides, *overrides])


@dataclass(frozen=True)
class Experiment:
    """A row of the tutorial's table.

    Attributes:
        name: Name of the row and of its corrected runs. Runs as published have the prefix `as_run/`.
        builds_on: Name of the row that this row changes. None for the first.
        published: Top-1 accuracy on test in percent. None if the tutorial gives no accuracy.
        what: The change to `builds_on`, in words.
        as_run: Setting that trains it as the published code does.
        corrected: Setting that trains it without that code's defects.
    """

    name: str
    builds_on: str | None
    published: float | None
    what: str
    as_run: Setting
    corrected: Setting


@dataclass(frozen=True)
class _Change:
    """An experiment of the tutorial, as a change of the experiment that it builds on.

    Each has two settings: `as_run` repeats the published code, `corrected` avoids its defects.

    Attributes:
        builds_on: Name of the other experiment. None for the first.
        as_run: Overrides of the other's `as_run`. None: the recipe `as_run/NAME` is used.
        corrected: Overrides of the other's `corrected`. None: the recipe `NAME` is used.
        published: Published accuracy in percent, if no recipe gives it.
        what: The change in words, if no recipe gives it.
    """

    builds_on: str | None
    as_run: tuple[str, ...] | None = None
    corrected: tuple[str, ...] | None = None
    published: float | None = None
    what: str = ""


_ARCFACE = "resnet18_pretrained_arcface"
_SIZES = "data.multi_scale={sizes: [32, 64], per: sample}"
_RESNET50 = "model.backbone={name: resnet50, pretrained: true}"
# Rows are in the tutorial's order. Each comes after the row that it builds on.
_TABLE = {
    "resnet18_baseline": _Change(None),
    "resnet18_augment": _Change("resnet18_baseline"),
    "resnet18_baseline_lbsmooth": _Change("resnet18_baseline", ("objective.cross_entropy.smoothing=0.1",)),
    "resnet18_baseline_wd01": _Change("resnet18_baseline", ("optim.weight_decay=0.1",)),
    # The published code does not normalise with the mean and standard deviation of the ImageNet weights.
    "resnet18_pretrained": _Change("resnet18_baseline", ("model.backbone.pretrained=true",)),
    # The text has s = 64 and m = 0.5, the code these values. The code computes the margin under no_grad.
    _ARCFACE: _Change(
        "resnet18_pretrained",
        (
            "model.head={name: margin, dim: 512, scale: 8}",
            "objective.cross_entropy=null",
            "objective.arcface={margin: 0.35, gradient: straight_through}",
        ),
    ),
    # The published run started from an unpublished checkpoint. This one starts from ImageNet weights.
    f"{_ARCFACE}_224x224": _Change(_ARCFACE, ("data.image_size=224",)),
    # The published code divides the teacher's cosines x 8 by 4: at most 0.065 nats from uniform, of 4.605.
    # Two of its faults have no setting here: its teacher is in training mode and receives the labels.
    f"{_ARCFACE}_kd": _Change(
        _ARCFACE,
        (
            "objective.arcface.weight=0.3",
            "objective.distill={weight: 0.7, temperature: 4}",
            f"teacher={{run: {AS_RUN}resnet50_pretrained_arcface_224x224, calibrate: false}}",
        ),
    ),
    # The published code draws a new size for each picture. Here, without shuffling, it changes by epoch.
    f"{_ARCFACE}_mst": _Change(_ARCFACE, (_SIZES,), (_SIZES,), what="+ each picture at 32 or 64 px"),
    "resnet50_pretrained_arcface": _Change(
        _ARCFACE, (_RESNET50,), (_RESNET50,), 61.76, "+ ResNet-50 in place of ResNet-18, at 32 x 32"
    ),
    "resnet50_pretrained_arcface_224x224": _Change(
        "resnet50_pretrained_arcface", ("data.image_size=224",), what="+ pictures enlarged to 224 x 224"
    ),
}


def experiments() -> dict[str, Experiment]:
    """Return the rows of the tutorial's table by name, in its order."""
    packaged = frozenset(recipe_names())
    rows: dict[str, Experiment] = {}
    for name, change in _TABLE.items():
        base = rows[change.builds_on] if change.builds_on else None
        recipe = read_recipe(name) if name in packaged else None
        rows[name] = Experiment(
            name,
            change.builds_on,
            recipe.published if recipe else change.published,
            change.what or (recipe.what if recipe else ""),
            _setting(AS_RUN + name, change.as_run, base.as_run if base else None),
            _setting(name, change.corrected, base.corrected if base else None),
        )
    return rows


def find_setting(name: str) -> Setting | None:
    """Find the setting that trains the runs of a tutorial's experiment.

    Args:
        name: Name of the runs: `NAME` for the corrected runs of the experiment NAME, `as_run/NAME` for its
            runs as published.

    Returns:
        The setting. None if the tutorial has no such experiment.
    """
    experiment = experiments().get(name.removeprefix(AS_RUN))
    if experiment is None:
        return None
    return experiment.as_run if name.startswith(AS_RUN) else experiment.corrected


def _setting(recipe: str, change: tuple[str, ...] | None, base: Setting | None) -> Setting:
    if change is None:
        return Setting(recipe)
    assert base is not None, "the first row has recipes"
    return Setting(base.recipe, (*base.overrides, *change))
