"""Recipes: finding one, laying it over its base, checking it against the registered parts."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cifarlab.config import ROOT, Config, build, keys_at
from cifarlab.draws import label_key
from cifarlab.merging import merge, order, parse_override
from cifarlab.reading import parse_yaml
from cifarlab.registry import ConfigError, did_you_mean, unknown

FOLDER = Path(__file__).parent
# Keys of a recipe file that are not part of the run's configuration.
BESIDE = ("base", "about")
NOT_MEASURED = "not measured yet"


@dataclass(frozen=True)
class Recipe:
    """A recipe, read and laid over its bases: its name, its plain data, what its file says of itself."""

    name: str
    path: Path
    base: str | None
    about: dict[str, Any]
    plain: dict[str, Any]

    @property
    def what(self) -> str:
        return str(self.about.get("what", ""))

    @property
    def published(self) -> float | None:
        """The published top-1 accuracy, in percent."""
        return self.about.get("published")

    @property
    def measured(self) -> str | None:
        """The accuracy measured with this code, with its seeds, or None."""
        return self._said("measured")

    @property
    def waits(self) -> str | None:
        """Why the recipe is not measured, e.g. `queued`."""
        return self._said("waits")

    @property
    def result(self) -> str:
        """`measured` where there is such, else why not."""
        return self.measured or ": ".join([NOT_MEASURED, *([self.waits] if self.waits else [])])

    def _said(self, key: str) -> str | None:
        return str(self.about[key]) if key in self.about else None


def names() -> list[str]:
    """The recipes of the package by name, e.g. `resnet18_baseline`, `as_run/resnet18_baseline`."""
    found = [path.relative_to(FOLDER).with_suffix("").as_posix() for path in FOLDER.rglob("*.yaml")]
    return sorted(found, key=lambda name: (name.count("/"), name))


def every() -> list[Recipe]:
    """Read the recipes of the package: measured ones first; then sub-folders last, each after its base."""
    recipes = {name: read(name) for name in names()}

    def descent(recipe: Recipe) -> tuple[str, ...]:
        return (*(descent(recipes[recipe.base]) if recipe.base else ()), recipe.name)

    in_order = sorted(recipes.values(), key=lambda recipe: (recipe.name.count("/"), descent(recipe)))
    return sorted(in_order, key=lambda recipe: recipe.measured is None)


def find(name: str, beside: Path | None = None) -> Path:
    """The file of a recipe: one of the package's by name, or a YAML file (from a recipe: relative to it)."""
    if name.endswith((".yaml", ".yml")):
        path = Path(name).expanduser()
        path = beside / path if beside and not path.is_absolute() else path
        if not path.is_file():
            raise ConfigError(f"{path}: no such recipe file")
        return path
    path = FOLDER / f"{name}.yaml"
    if name not in names():
        near = did_you_mean(name, names())
        raise ConfigError(f"no recipe {name!r}{f'; {near}' * bool(near)} (`cifarlab list` shows all)")
    return path


def read(name: str, beside: Path | None = None, above: tuple[Path, ...] = ()) -> Recipe:
    """Read a recipe and lay it over its bases. Raises ConfigError naming a file that is not a recipe."""
    path = find(name, beside).resolve()
    if path in above:
        chain = " -> ".join(p.stem for p in (*above[above.index(path) :], path))
        raise ConfigError(f"{path}: a recipe cannot be its own base: {chain}")
    content = _read_yaml(path)
    base = content.pop("base", None)
    about = content.pop("about", None) or {}
    if base is not None and not isinstance(base, str):
        raise ConfigError(f"{path}: base: expected a recipe's name, got {base!r}")
    if not isinstance(about, Mapping):
        raise ConfigError(f"{path}: about: expected a mapping, got {about!r}")
    imports = [_absolute(entry, path.parent) for entry in _imports(content, path)]
    lower = read(base, path.parent, (*above, path)).plain if base else ROOT
    plain = merge(lower, content)
    plain["imports"] = list(dict.fromkeys([*lower.get("imports", ()), *imports]))
    package_name = (
        path.relative_to(FOLDER).with_suffix("").as_posix() if path.is_relative_to(FOLDER) else path.stem
    )
    return Recipe(package_name, path, base, dict(about), plain)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = parse_yaml(path.read_text(encoding="utf-8"), str(path)) or {}
    except (UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected `key: value` lines, got {type(content).__name__}")
    for key in content:
        if key not in keys_at(()) and key not in BESIDE:
            raise ConfigError(f"{path}: {key}: {unknown(str(key), [*keys_at(()), *BESIDE])}")
    return content


def _imports(content: dict[str, Any], path: Path) -> list[str]:
    try:
        return _entries(content.pop("imports", None))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _entries(value: Any) -> list[str]:
    entries = [value] if isinstance(value, str) else value or []
    if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
        raise ConfigError("expected a list of Python files or modules", ("imports",))
    return entries


def _absolute(entry: str, folder: Path) -> str:
    return str((folder / Path(entry).expanduser()).resolve()) if entry.endswith(".py") else entry


def import_parts(entries: Iterable[str]) -> None:
    """Import what registers a recipe's own parts. Raises ConfigError naming a file or module that fails."""
    for entry in entries:
        module = (
            f"cifarlab_imports.{Path(entry).stem}_{label_key(entry) & 0xFFFFFFFF:08x}"
            if entry.endswith(".py")
            else entry
        )
        if module in sys.modules:
            continue
        try:
            if not entry.endswith(".py"):
                importlib.import_module(entry)
                continue
            spec = importlib.util.spec_from_file_location(module, entry)
            assert spec is not None and spec.loader is not None
            loaded = importlib.util.module_from_spec(spec)
            sys.modules[module] = loaded
            spec.loader.exec_module(loaded)
        except (Exception, SystemExit) as error:
            sys.modules.pop(module, None)
            raise ConfigError(
                f"cannot import {entry}: {type(error).__name__}: {error}", ("imports",)
            ) from error


def import_builtin_parts() -> None:
    """Fill the registries: importing a part's module registers it."""
    for module in ("data.readers", "augment", "models", "objectives", "optim"):
        importlib.import_module(f"cifarlab.{module}")


def resolve(recipe: Recipe, overrides: Iterable[str] = ()) -> Config:
    """The recipe under `key=value` overrides, checked. Raises ConfigError with the key's full path."""
    plain = recipe.plain
    for text in overrides:
        override = parse_override(text)
        if "imports" in override:
            added = [_absolute(entry, Path.cwd()) for entry in _entries(override["imports"])]
            override["imports"] = list(dict.fromkeys([*plain.get("imports", ()), *added]))
        plain = merge(plain, override)
    return checked(plain)


def checked(plain: Mapping[str, Any]) -> Config:
    """Check plain data against every registered part, the recipe's own imports included."""
    import_builtin_parts()
    import_parts(_entries(plain.get("imports")))
    return build(order(plain))
