"""The provenance of a run: its recipe, changes to it, hardware and versions."""

from __future__ import annotations

from pathlib import Path

from cifarlab.config import NOT_IDENTITY
from cifarlab.config.merge import differences, shown
from cifarlab.config.recipes import read_recipe
from cifarlab.config.saved import validate_saved
from cifarlab.core.errors import ConfigError
from cifarlab.report.collect import Finished

ALL = "The file config.yaml in the run's folder holds every option."


def recipe_of(run: Finished) -> str:
    """Return the name of a run's recipe.

    If the recipe is not one of the package, return its path.
    """
    name = run.summary.recipe
    if run.env.recipes:
        path = run.env.recipes[0].path
        return name if path == f"cifarlab/recipes/{name}.yaml" else path
    # Older runs did not record their files. Their command shows whether the recipe was the user's own file.
    words = [Path(word) for word in run.env.command]
    return next((str(w) for w in words if w.stem == name and w.suffix in (".yaml", ".yml")), name)


def changes(run: Finished) -> tuple[str, list[tuple[str, str, str]]]:
    """Compare a run's configuration with that of its recipe's base.

    The base is the recipe that the run's recipe changes, as named by the key `base` of its YAML file. If
    there is none, the run is compared with its recipe itself.

    Returns:
        A heading, and (key, value in the base, value in the run) for each difference.
    """
    name = recipe_of(run)
    try:
        if name.endswith((".yaml", ".yml")) and not Path(name).is_absolute():
            raise ConfigError(f"{name}: its folder was not recorded")
        recipe = read_recipe(name)
        below = read_recipe(recipe.base, beside=recipe.path.parent) if recipe.base else recipe
        # The record may come from an untrusted source, so its recipe must not import code.
        plain = validate_saved(below.plain, below.path).dump()
    except ConfigError as error:  # E.g. a user's recipe that was moved.
        return f"Not compared with its recipe ({error}). {ALL}", []
    found = differences(plain, run.config)
    # The seed and options that do not identify an experiment are no changes.
    hidden = {"train.seed", *NOT_IDENTITY}
    rows = [(key, shown(old), shown(new)) for key, (old, new) in found.items() if key not in hidden]
    base = "its recipe's base" if recipe.base else "its recipe"
    if [(each.path, each.sha256) for each in run.env.recipes] not in (
        [],
        [(each["path"], each["sha256"]) for each in recipe.files],
    ):
        base += " (its files have changed since)"
    return (f"Differs from {base} in:" if rows else f"Same as {base}. {ALL}"), rows


def surroundings(run: Finished) -> list[tuple[str, str]]:
    """List a run's recipe, date, hardware and versions as (label, value)."""
    env = run.env
    hardware, versions = env.hardware, env.versions
    rows = [("recipe", recipe_of(run)), ("date", env.time[:10]),
            ("processor", hardware.get("processor")), ("cores", hardware.get("cores")),
            ("device", hardware.get("gpu")), ("precision", env.precision)]  # fmt: skip
    return [(key, str(value)) for key, value in rows if value] + [
        (f"{k}", str(v)) for k, v in versions.items()
    ]
