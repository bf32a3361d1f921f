"""Generator of the reference pages: `python -m cifarlab.config.reference`."""

from __future__ import annotations

import json
from pathlib import Path

from cifarlab.config.describe import Option, describe_part, describe_sections
from cifarlab.config.imports import import_builtin_parts
from cifarlab.core.files import write_atomically
from cifarlab.core.registries import REGISTRIES

PAGES = Path("docs/reference")
_MADE = "<!-- Made by `python -m cifarlab.config.reference`; edit the docstrings and fields instead. -->"
_HEADINGS = {
    "data.dataset": "Data sets",
    "data.augment": "Augmentations",
    "data.mix": "Mixers",
    "model.backbone": "Backbones",
    "model.head": "Heads",
    "objective": "Losses",
    "optim": "Optimizers",
    "optim.schedule": "Schedules",
    "optim.sharpness": "Sharpness-aware steps",
    "train.average": "Weight averages",
}


def reference_pages() -> dict[str, str]:
    """Return the text of each reference page by file name."""
    import_builtin_parts()
    return {"options.md": _options_page(), "parts.md": _parts_page()}


def _options_page() -> str:
    lines = [
        "# Options of a recipe",
        _MADE,
        "A recipe is a YAML file of sections. Each option has a default unless it says *required*. On the "
        "command line an option is `section.option=value`. `cifarlab options SECTION` prints the same.",
    ]
    for name, section in describe_sections().items():
        lines += [f"## `{name}`" if name else "## Outside of the sections", section.doc]
        lines.append(_table(section.options, name))
        if name in REGISTRIES:
            lines.append(f"The section also takes options of its part: [{_HEADINGS[name]}]({_link(name)}).")
    return "\n\n".join(lines) + "\n"


def _parts_page() -> str:
    lines = [
        "# Parts",
        _MADE,
        "Parts that a recipe can name, by kind, with their options. `cifarlab parts NAME` prints the same.",
        "\n".join(f"- [{heading}]({_link(key)}): `{key}`" for key, heading in _HEADINGS.items()),
    ]
    for key, heading in _HEADINGS.items():
        registry = REGISTRIES[key]
        lines.append(f"## {heading}")
        also = f" Each also takes {' and '.join(f'`{word}`' for word in registry.beside)}."
        lines.append(f"In a recipe under `{key}`.{also if registry.beside else ''}")
        # Parts that a user's file has registered do not belong in the package's reference.
        own = [part for part in registry.parts() if part.module.startswith("cifarlab.") or not part.module]
        for part in map(describe_part, own):
            lines += [f"### `{part.name}`", part.doc, *part.about]
            if part.options:
                lines.append(_table(part.options))
    return "\n\n".join(map(_escaped, lines)) + "\n"


def _table(options: dict[str, Option], section: str = "") -> str:
    rows = ["| option | type | default | meaning |", "|---|---|---|---|"]
    for key, option in options.items():
        default = "*required*" if option.is_required else f"`{json.dumps(option.default)}`"
        path = f"{section}.{key}".strip(".")
        meaning = option.doc + (f" See [{_HEADINGS[path]}]({_link(path)})." if path in _HEADINGS else "")
        rows.append(f"| `{key}` | {_cell(option.type)} | {_cell(default)} | {_cell(meaning)} |")
    return "\n".join(rows)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _escaped(text: str) -> str:
    """Escape `<`, so that `<class>` is not read as an HTML element. Comments stay unchanged."""
    return text if text.startswith("<!--") else text.replace("<", "&lt;")


def _link(key: str) -> str:
    return f"parts.md#{_HEADINGS[key].lower().replace(' ', '-')}"


def write_reference() -> None:
    """Write the pages to `docs/reference` in the working folder."""
    PAGES.mkdir(parents=True, exist_ok=True)
    for name, text in reference_pages().items():
        write_atomically(PAGES / name, lambda file, text=text: file.write(text.encode()))


if __name__ == "__main__":
    write_reference()
