"""`cifarlab parts`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from cifarlab.commands.shared import AsJson, app, print_options

if TYPE_CHECKING:
    from cifarlab.config.describe import PartDescription


@app.command()
def parts(
    name: Annotated[
        str | None,
        typer.Argument(
            help="A part, e.g. muon, or a kind of parts by its key in a recipe, e.g. data.augment."
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the registered parts, or explain one with its options.

    Parts are what recipes choose by name, such as augmentations, backbones, losses and optimizers.
    """
    from cifarlab.config.describe import describe_part
    from cifarlab.config.imports import import_builtin_parts
    from cifarlab.core.errors import ConfigError, unknown
    from cifarlab.core.registries import REGISTRIES

    import_builtin_parts()
    kinds = {name: REGISTRIES[name]} if name in REGISTRIES else REGISTRIES
    listing = {key: [describe_part(part) for part in kind.parts()] for key, kind in kinds.items()}
    if name is not None and name not in REGISTRIES:
        listing = {key: [part for part in found if part.name == name] for key, found in listing.items()}
        listing = {key: found for key, found in listing.items() if found}
        for key, kind in kinds.items():
            # Some backbones, those of timm, are not registered one by one.
            if key not in listing and (part := kind.open_part(name)) is not None:
                listing[key] = [describe_part(part)]
        if not listing:
            names = [*REGISTRIES, *(part.name for kind in REGISTRIES.values() for part in kind.parts())]
            raise ConfigError(f"{name}: {unknown(name, names)}")
    if as_json:
        print(
            json.dumps({key: [part.to_json() for part in found] for key, found in listing.items()}, indent=2)
        )
        return
    for key, found in listing.items():
        beside = REGISTRIES[key].beside
        also = f" (each also takes {', '.join(beside)})" if beside else ""
        if name is None or name in REGISTRIES:
            _print_names(f"{key}{also}", found)
        else:
            for part in found:
                _print_part(f"{part.name}, of {key}{also}", part)
    if name is None or name in REGISTRIES:
        print("`cifarlab parts NAME` explains a part and its options.")


def _print_names(heading: str, found: list[PartDescription]) -> None:
    print(heading)
    for part in found:
        options = f" ({', '.join(part.options)})" if part.options else ""
        print(f"  {part.name}{options}: {part.doc}")


def _print_part(heading: str, part: PartDescription) -> None:
    print(heading)
    print(f"  {part.doc}")
    for paragraph in part.about:
        print(f"\n  {paragraph}")
    if part.options:
        print()
        print_options(part.options)
