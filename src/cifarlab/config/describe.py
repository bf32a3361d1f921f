"""Registered parts as plain data: names, docs, and the types and defaults of their options."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable
from typing import Annotated, Any

from cifarlab.core.registry import Part, Spec


def describe_part(part: Part) -> dict[str, Any]:
    """Name, doc, and each option's type and default (none where a recipe must give it)."""
    options: dict[str, dict[str, Any]] = {}
    for key, default in part.options.items():
        field = part.schema.model_fields[key]
        options[key] = {"type": type_name(field.annotation) + _limits(field.metadata)}
        if default is not ...:
            options[key]["default"] = list(default) if isinstance(default, tuple) else default
    return {"name": part.name, "doc": part.doc, "options": options}


def type_name(annotation: Any) -> str:
    """A type as a recipe's writer would say it: `float >= 0`, `(int, int)`, `constant | reflect`."""
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
    words = {type(None): "null", str: "text", Spec: "name or {name, options}"}
    return words.get(annotation) or getattr(annotation, "__name__", str(annotation))


def _limits(metadata: Iterable[Any]) -> str:
    """` >= 0` or ` in [0, 1)` of annotated-types' constraints, wherever pydantic keeps them."""
    flat = [inner for item in metadata for inner in (item, *getattr(item, "metadata", ()))]
    limits = {name: value for item in flat for name in ("ge", "gt", "le", "lt")
              if (value := getattr(item, name, None)) is not None}  # fmt: skip
    low, high = limits.get("ge", limits.get("gt")), limits.get("le", limits.get("lt"))
    if low is not None and high is not None:
        return f" in {'[' if 'ge' in limits else '('}{low}, {high}{']' if 'le' in limits else ')'}"
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    return "".join(f" {signs[name]} {value}" for name, value in limits.items())
