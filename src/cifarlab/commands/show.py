"""`cifarlab show`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from cifarlab.commands.shared import AsJson, Overrides, RecipeName, app


@app.command()
def show(
    recipe: RecipeName,
    overrides: Overrides = None,
    diff: Annotated[
        bool, typer.Option("--diff", help="Print only what differs from the recipe's base.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Print a recipe with all options and defaults filled in."""
    import yaml

    from cifarlab.config.merge import differences, shown
    from cifarlab.config.recipes import import_and_validate, read_recipe, resolve

    found = read_recipe(recipe)
    plain = resolve(found, overrides or ()).dump()
    if not diff:
        print(
            json.dumps(plain, indent=2) if as_json else yaml.safe_dump(plain, sort_keys=False),
            end="\n" if as_json else "",
        )
        return
    base = (
        import_and_validate(read_recipe(found.base, beside=found.path.parent).plain).dump()
        if found.base
        else {}
    )
    changed = differences(base, plain)
    if as_json:
        rows = {key: {"base": old, "recipe": new} for key, (old, new) in changed.items()}
        print(json.dumps({"recipe": found.name, "base": found.base, "changes": rows}, indent=2))
        return
    print(f"{recipe} differs from {found.base} in:" if found.base else f"{recipe} has no base; it sets:")
    for key, (old, new) in changed.items():
        print(f"  {key}: {shown(old)} -> {shown(new)}" if found.base else f"  {key}: {shown(new)}")
