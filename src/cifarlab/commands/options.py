"""`cifarlab options`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from cifarlab.commands.shared import AsJson, app, print_options


@app.command()
def options(
    section: Annotated[
        str | None, typer.Argument(help="A section or an option, e.g. train, optim.lookahead, train.select.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Explain the options of a recipe's sections."""
    from cifarlab.config.describe import describe_sections
    from cifarlab.core.errors import ConfigError, unknown
    from cifarlab.core.registries import REGISTRIES

    sections = describe_sections()
    if section is not None:
        above, _, key = section.rpartition(".")
        if section in sections:
            sections = {section: sections[section]}
        elif above in sections and key in sections[above].options:
            found = sections[above]
            sections = {above: found.changed(options={key: found.options[key]})}
        else:
            paths = [f"{name}.{key}" for name, found in sections.items() for key in found.options]
            known = [*filter(None, sections), *(path.strip(".") for path in paths)]
            raise ConfigError(f"{section}: {unknown(section, known)}")
    if as_json:
        print(json.dumps({name: found.to_json() for name, found in sections.items()}, indent=2))
        return
    for name, found in sections.items():
        print(f"{name}: {found.doc}" if name else found.doc)
        print_options(found.options)
        for key in found.options:
            path = f"{name}.{key}".strip(".")
            if path in REGISTRIES:
                print(f"  For {path}: `cifarlab parts {path}`.")
        if name in REGISTRIES and len(found.options) > 1:
            print(f"  The options of the part named by `name` are set here, too: `cifarlab parts {name}`.")
