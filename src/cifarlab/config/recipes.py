"""Recipes: search, merge with their bases, validation against the registered parts.

A recipe is a YAML file with options of a run. Its `base` is another recipe, whose options it changes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cifarlab.config import ROOT, Config, build_config, keys_at
from cifarlab.config.imports import (
    absolute_entry,
    import_builtin_parts,
    import_parts,
    read_entries,
)
from cifarlab.config.merge import apply_before, merge_sections, parse_override
from cifarlab.core.errors import ConfigError, did_you_mean, unknown
from cifarlab.core.plain import Plain, is_dict, is_mapping
from cifarlab.core.reading import parse_yaml

# Resolved, since recipe files are compared with it by their resolved paths.
FOLDER = Path(__file__).resolve().parents[1] / "recipes"
# Keys of a recipe file that do not belong to the run's configuration.
BESIDE = ("base", "about")
NOT_MEASURED_YET = "not measured yet"


@dataclass(frozen=True)
class Recipe:
    """A recipe that was read and merged with its bases.

    Attributes:
        name: Name of a recipe of the package, e.g. `ladder/04_cosine`, or the stem of a user's file.
        path: The recipe file.
        base: The key `base` of the file: name or path of another recipe. None if the file has no such key.
        about: The key `about` of the file: description, published and measured results.
        plain: The merged configuration, before overrides and validation.
        files: A dict with the keys `path` and `sha256` for the file, then one for each base. Paths of the
            package's recipes begin with `cifarlab/recipes/`. Other paths are absolute.
    """

    name: str
    path: Path
    base: str | None
    about: dict[str, Any]
    plain: dict[str, Any]
    files: tuple[dict[str, str], ...] = ()

    @property
    def what(self) -> str:
        """A description in a few words, or an empty string."""
        return str(self.about.get("what", ""))

    @property
    def published(self) -> float | None:
        """The top-1 test accuracy that others published, in percent, or None."""
        return self.about.get("published")

    @property
    def measured(self) -> str | None:
        """The test accuracy measured with this package, e.g. `64.60 (1 of 3 seeds)` in percent, or None."""
        return self._said("measured")

    @property
    def waits(self) -> str | None:
        """The reason why the recipe is not measured yet, e.g. `queued`, or None."""
        return self._said("waits")

    @property
    def result(self) -> str:
        """The measured accuracy as text, or the reason why there is none."""
        return self.measured or ": ".join([NOT_MEASURED_YET, *([self.waits] if self.waits else [])])

    def _said(self, key: str) -> str | None:
        return str(self.about[key]) if key in self.about else None


def recipe_names() -> list[str]:
    """Return the names of the package's recipes, e.g. `resnet18_baseline`, `ladder/04_cosine`."""
    found = [path.relative_to(FOLDER).with_suffix("").as_posix() for path in FOLDER.rglob("*.yaml")]
    return sorted(found, key=lambda name: (name.count("/"), name))


def all_recipes() -> list[Recipe]:
    """Read all recipes of the package.

    Recipes with a measured accuracy come before those without. In each of the two groups, recipes in
    sub-folders come last, and each recipe follows its base.
    """
    recipes = {name: read_recipe(name) for name in recipe_names()}

    def descent(recipe: Recipe) -> tuple[str, ...]:
        return (*(descent(recipes[recipe.base]) if recipe.base else ()), recipe.name)

    in_order = sorted(recipes.values(), key=lambda recipe: (recipe.name.count("/"), descent(recipe)))
    return sorted(in_order, key=lambda recipe: recipe.measured is None)


def find_recipe(name: str, beside: Path | None = None) -> Path:
    """Return the file of a recipe.

    Args:
        name: Name of a recipe of the package, or path of a YAML file.
        beside: Folder against which a relative path is resolved. Default: the working folder.

    Raises:
        ConfigError: There is no such recipe.
    """
    if name.endswith((".yaml", ".yml")):
        path = Path(name).expanduser()
        path = beside / path if beside and not path.is_absolute() else path
        if not path.is_file():
            raise ConfigError(f"{path}: no such recipe file")
        return path
    path = FOLDER / f"{name}.yaml"
    if name not in recipe_names():
        near = did_you_mean(name, recipe_names())
        raise ConfigError(f"no recipe {name!r}{f'; {near}' * bool(near)} (`cifarlab list` shows all)")
    return path


def read_recipe(name: str, *, beside: Path | None = None, above: tuple[Path, ...] = ()) -> Recipe:
    """Read a recipe and merge it with its bases.

    Args:
        name: Name of a recipe of the package, or path of a YAML file.
        beside: Folder against which a relative path is resolved. Default: the working folder.
        above: For the recursive call only: files of the recipes that have this one as their base, directly
            or not. They are needed to detect a cycle.

    Raises:
        ConfigError: There is no such recipe, or a file is not a recipe.
    """
    path = find_recipe(name, beside).resolve()
    if path in above:
        chain = " -> ".join(p.stem for p in (*above[above.index(path) :], path))
        raise ConfigError(f"{path}: a recipe cannot be its own base: {chain}")
    content, sha256 = _read_yaml(path)
    base = content.pop("base", None)
    about: Plain = content.pop("about", None)
    about = {} if about is None else about
    if base is not None and not isinstance(base, str):
        raise ConfigError(f"{path}: base: expected a recipe's name, got {base!r}")
    if not is_mapping(about):
        raise ConfigError(f"{path}: about: expected a mapping, got {about!r}")
    imports = [absolute_entry(entry, path.parent) for entry in _imports(content, path)]
    below = read_recipe(base, beside=path.parent, above=(*above, path)) if base else None
    lower = below.plain if below else ROOT
    plain = merge_sections(lower, content)
    plain["imports"] = list(dict.fromkeys([*read_entries(lower.get("imports")), *imports]))
    package_name = (
        path.relative_to(FOLDER).with_suffix("").as_posix() if path.is_relative_to(FOLDER) else path.stem
    )
    files = ({"path": _place(path), "sha256": sha256}, *(below.files if below else ()))
    return Recipe(package_name, path, base, dict(about), plain, files)


def _place(path: Path) -> str:
    """Return the path to record for a recipe file.

    For a recipe of the package it does not depend on where the package is installed.
    """
    is_packaged = path.is_relative_to(FOLDER)
    return f"cifarlab/recipes/{path.relative_to(FOLDER)}" if is_packaged else str(path)


def _read_yaml(path: Path) -> tuple[dict[str, Plain], str]:
    """Return the content of a recipe file and its sha256."""
    try:
        data = path.read_bytes()
        content: Plain = parse_yaml(data.decode(), str(path))
    except (UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    content = {} if content is None else content
    if not is_dict(content):
        raise ConfigError(f"{path}: expected `key: value` lines, got {type(content).__name__}")
    for key in content:
        if key not in keys_at(()) and key not in BESIDE:
            raise ConfigError(f"{path}: {key}: {unknown(str(key), [*keys_at(()), *BESIDE])}")
    return content, hashlib.sha256(data).hexdigest()


def _imports(content: dict[str, Plain], path: Path) -> list[str]:
    try:
        return read_entries(content.pop("imports", None))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def resolve(recipe: Recipe, overrides: Iterable[str] = ()) -> Config:
    """Apply `key=value` overrides to a recipe and validate the result.

    The package's parts, and the files and modules listed under `imports`, are imported first.

    Raises:
        ConfigError: An import fails, or an override or a value is wrong. The error has the full path of the
            key.
    """
    plain = recipe.plain
    for text in overrides:
        override = parse_override(text)
        if "imports" in override:
            added = [absolute_entry(entry, Path.cwd()) for entry in read_entries(override["imports"])]
            override["imports"] = list(dict.fromkeys([*read_entries(plain.get("imports")), *added]))
        plain = merge_sections(plain, override)
    return import_and_validate(plain)


def import_and_validate(plain: Mapping[str, Plain]) -> Config:
    """Validate a plain configuration after importing the parts that it may name.

    These are the package's parts, and those of the files and modules listed under `imports`. A part with
    `before: label` is moved in front of the part with that label.

    Raises:
        ConfigError: An import fails, or a value is wrong.
    """
    import_builtin_parts()
    import_parts(read_entries(plain.get("imports")))
    return build_config(apply_before(plain))
