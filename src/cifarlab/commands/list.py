"""`cifarlab list`."""

from __future__ import annotations

import json

from cifarlab.commands.shared import AsJson, app, print_table


@app.command(name="list")
def list_recipes(as_json: AsJson = False) -> None:
    """List the recipes, with published and measured accuracies."""
    from cifarlab.config.recipes import all_recipes

    found = all_recipes()
    if as_json:
        keys = ("name", "what", "base", "published", "measured", "waits")
        rows = [{key: getattr(recipe, key) for key in keys} for recipe in found]
        print(json.dumps(rows, indent=2))
        return
    rows = [(r.name, r.what, "-" if r.published is None else f"{r.published:.2f}", r.result) for r in found]
    print_table(("recipe", "what it is", "published", "measured"), rows)
    print(
        "Published and measured: top-1 % on test; [low, high]: the mean's 95 % interval over seeds. "
        "+: what a recipe changes in its base."
    )
