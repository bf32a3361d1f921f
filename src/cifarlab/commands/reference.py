"""Commands that say what there is: `list`, `show`, `parts`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from cifarlab.commands.shared import AsJson, Overrides, RecipeName, app, print_table


@app.command(name="list")
def list_recipes(as_json: AsJson = False) -> None:
    """Every recipe: what it is, published and measured accuracy."""
    from cifarlab.config.recipes import every

    found = every()
    if as_json:
        keys = ("name", "what", "base", "published", "measured", "waits")
        rows = [{key: getattr(recipe, key) for key in keys} for recipe in found]
        print(json.dumps(rows, indent=2))
        return
    rows = [(r.name, r.what, "-" if r.published is None else f"{r.published:.2f}", r.result) for r in found]
    print_table(("recipe", "what it is", "published", "measured"), rows)
    print(
        "Published and measured: top-1 % on test; [low, high]: the mean's 95 % interval over seeds. "
        "+: what a recipe adds to its base."
    )


@app.command()
def show(
    recipe: RecipeName,
    overrides: Overrides = None,
    diff: Annotated[bool, typer.Option("--diff", help="Only what differs from the recipe's base.")] = False,
    as_json: AsJson = False,
) -> None:
    """The resolved recipe: every option of the run, defaults filled in."""
    import yaml

    from cifarlab.config.merge import differences, shown
    from cifarlab.config.recipes import checked, read, resolve

    found = read(recipe)
    plain = resolve(found, overrides or ()).dump()
    if not diff:
        print(
            json.dumps(plain, indent=2) if as_json else yaml.safe_dump(plain, sort_keys=False),
            end="\n" if as_json else "",
        )
        return
    base = checked(read(found.base, found.path.parent).plain).dump() if found.base else {}
    changed = differences(base, plain)
    if as_json:
        rows = {key: {"base": old, "recipe": new} for key, (old, new) in changed.items()}
        print(json.dumps({"recipe": found.name, "base": found.base, "changes": rows}, indent=2))
        return
    print(f"{recipe} differs from {found.base or 'nothing: it has no base'} in:")
    for key, (old, new) in changed.items():
        print(f"  {key}: {shown(old)} -> {shown(new)}" if found.base else f"  {key}: {shown(new)}")


@app.command()
def parts(
    kind: Annotated[
        str | None, typer.Argument(help="Only one kind, by its key in a recipe: objective, data.augment")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Every registered part: its options, their defaults, one line of doc."""
    from cifarlab.config.describe import describe
    from cifarlab.config.recipes import import_builtin_parts
    from cifarlab.core.errors import ConfigError, unknown
    from cifarlab.core.registries import REGISTRIES

    import_builtin_parts()
    if kind is not None and kind not in REGISTRIES:
        raise ConfigError(f"{kind}: {unknown(kind, REGISTRIES)}")
    listing = {
        key: [describe(part) for part in registry.parts()]
        for key, registry in REGISTRIES.items()
        if kind in (None, key)
    }
    if as_json:
        print(json.dumps(listing, indent=2))
        return
    for key, members in listing.items():
        beside = REGISTRIES[key].beside
        print(key + (f" (each also takes {', '.join(beside)})" if beside else ""))
        for part in members:
            print(f"  {part['name']}: {part['doc']}")
            for option, about in part["options"].items():
                default = f"default {json.dumps(about['default'])}" if "default" in about else "required"
                print(f"      {option}: {about['type']}, {default}")
