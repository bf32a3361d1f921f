"""Descriptions of parts, sections and options: meaning, type and default.

A part is a registered function or class that a recipe can name, such as a loss.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Iterable
from typing import Annotated, Any

from docstring_parser import DocstringStyle, parse
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from cifarlab.config.config import Config
from cifarlab.core.plain import is_sequence
from cifarlab.core.records import Record
from cifarlab.core.registry import Part, Spec


class Option(Record):
    """An option of a part or section.

    Attributes:
        type: The type and range in words, e.g. `float >= 0`.
        doc: The meaning.
        default: The default value. None also for a required option: see `is_required`.
    """

    type: str
    doc: str
    default: Any = None

    @property
    def is_required(self) -> bool:
        """Whether a recipe must give the option."""
        return "default" not in self.model_fields_set


class PartDescription(Record):
    """A registered part.

    Attributes:
        name: Name of the part in recipes.
        doc: First line of the part's docstring.
        about: Further paragraphs of that docstring.
        options: The part's options, {name: option}.
    """

    name: str
    doc: str
    about: list[str]
    options: dict[str, Option]


class SectionDescription(Record):
    """A section of a recipe.

    Attributes:
        doc: First line of the docstring of the section's class.
        options: The section's options, {name: option}.
    """

    doc: str
    options: dict[str, Option]


def describe_part(part: Part) -> PartDescription:
    """Describe a registered part."""
    # An open part is a `partial` that binds the name. The docstring belongs to the inner function.
    call = getattr(part.call, "func", part.call)
    told = parse(inspect.getdoc(call) or "", DocstringStyle.GOOGLE)
    # An entry may be wrapped over several lines. Join them.
    docs = {entry.arg_name: " ".join((entry.description or "").split()) for entry in told.params}
    options: dict[str, Option] = {}
    for key, default in part.options.items():
        field = part.schema.model_fields[key]
        meaning = docs.get(key) or field.description or _annotated(field)
        options[key] = _option(field, default, meaning)
    about = [" ".join(paragraph.split()) for paragraph in (told.long_description or "").split("\n\n")]
    paragraphs = [each for each in about if each]
    return PartDescription(name=part.name, doc=part.doc, about=paragraphs, options=options)


def describe_sections() -> dict[str, SectionDescription]:
    """Describe the sections of a configuration.

    Returns:
        {dotted key: description}. A nested section, such as `data.multi_scale`, follows its parent. The empty
        key has the options that belong to no section, such as `imports`.
    """
    found: dict[str, SectionDescription] = {}
    alone: dict[str, FieldInfo] = {}
    for key, field in Config.model_fields.items():
        section = _section_of(field.annotation)
        if section is None:
            alone[key] = field
        else:
            found |= _described(key, section)
    return {"": SectionDescription(doc="The sections of a recipe.", options=_fields(alone)), **found}


def _described(path: str, section: type[BaseModel]) -> dict[str, SectionDescription]:
    fields = {key: field for key, field in section.model_fields.items() if not field.exclude}
    inner = {f"{path}.{key}": each for key, f in fields.items() if (each := _section_of(f.annotation))}
    doc = (inspect.getdoc(section) or "").partition("\n")[0]
    found = {path: SectionDescription(doc=doc, options=_fields(fields))}
    for key, each in inner.items():
        found |= _described(key, each)
    return found


def _fields(fields: dict[str, FieldInfo]) -> dict[str, Option]:
    return {key: _option(field, _default(field), field.description or "") for key, field in fields.items()}


def _default(field: FieldInfo) -> Any:
    default = field.get_default(call_default_factory=True)
    return ... if default is PydanticUndefined else default


def _option(field: FieldInfo, default: Any, meaning: str) -> Option:
    kind = type_name(field.annotation) + _limits(field.metadata)
    if default is ...:
        return Option(type=kind, doc=meaning)
    return Option(type=kind, doc=meaning, default=list(default) if is_sequence(default) else default)


def _annotated(field: FieldInfo) -> str:
    """Return the `description` in annotations like `Annotated[float, Field(description=...)]`.

    An empty string if there is none.
    """
    inner = (getattr(item, "description", None) for item in field.metadata)
    return next((text for text in inner if text), "")


def _section_of(annotation: Any) -> type[BaseModel] | None:
    """Return the section class in a field's annotation. None if there is none."""
    for each in (annotation, *typing.get_args(annotation)):
        if inspect.isclass(each) and issubclass(each, BaseModel):
            return each
    return None


def type_name(annotation: Any) -> str:
    """Return a type in words, e.g. `float >= 0`, `(int, int)`, `constant | reflect`."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated:
        return type_name(arguments[0]) + _limits(arguments[1:])
    if origin is typing.Literal:
        return " | ".join(map(str, arguments))
    if origin in (typing.Union, types.UnionType):
        return " | ".join(type_name(argument) for argument in arguments)
    if origin is dict and "Spec" in str(arguments[1]):
        return "{label: options}"
    if origin in (tuple, list):
        inner = ", ".join("..." if argument is ... else type_name(argument) for argument in arguments)
        return f"({inner})" if origin is tuple else f"[{inner}, ...]"
    if (section := _section_of(annotation)) is not None:
        return f"{{{', '.join(section.model_fields)}}}"
    words = {type(None): "null", str: "text", Spec: "name or {name, options}"}
    return words.get(annotation) or getattr(annotation, "__name__", str(annotation))


def _limits(metadata: Iterable[Any]) -> str:
    """Return a field's range in words, e.g. ` >= 0` or ` in [0, 1)`, from annotated-types' constraints."""
    flat = [inner for item in metadata for inner in (item, *getattr(item, "metadata", ()))]
    limits = {name: value for item in flat for name in ("ge", "gt", "le", "lt")
              if (value := getattr(item, name, None)) is not None}  # fmt: skip
    low, high = limits.get("ge", limits.get("gt")), limits.get("le", limits.get("lt"))
    if low is not None and high is not None:
        return f" in {'[' if 'ge' in limits else '('}{low}, {high}{']' if 'le' in limits else ')'}"
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    return "".join(f" {signs[name]} {value}" for name, value in limits.items())
