"""`cifarlab parts`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from cifarlab.commands.shared import AsJson, app


@app.command()
def parts(
    kind: Annotated[
        str | None, typer.Argument(help="Only one kind, by its key in a recipe: objective, data.augment")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Every registered part: its options, their defaults, one line of doc."""
    from cifarlab.config.describe import describe_part
    from cifarlab.config.imports import import_builtin_parts
    from cifarlab.core.errors import ConfigError, unknown
    from cifarlab.core.registries import REGISTRIES

    import_builtin_parts()
    if kind is not None and kind not in REGISTRIES:
        raise ConfigError(f"{kind}: {unknown(kind, REGISTRIES)}")
    listing = {
        key: [describe_part(part) for part in registry.parts()]
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
