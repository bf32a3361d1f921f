"""A pydantic model that takes no boolean for a number."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema


def refuse_boolean(value: Any) -> Any:
    """Give the value back. Raises ValueError for a boolean."""
    if isinstance(value, bool):
        raise ValueError("expected a number")
    return value


def _is_number(schema: dict[str, Any]) -> bool:
    """Tell whether a schema of pydantic's is of a number; a choice of numbers is one, too."""
    if schema.get("type") == "literal":
        kinds = {*map(type, schema["expected"])}
        return bool(kinds & {int, float}) and bool not in kinds
    return schema.get("type") in ("int", "float")


def _guarded(schema: Any) -> Any:
    """The schema with a look at each number before it is read as one."""
    if isinstance(schema, list | tuple):
        return type(schema)(map(_guarded, schema))
    if not isinstance(schema, dict):
        return schema
    kind = schema.get("type")
    if kind == "function-before" and schema["function"]["function"] is refuse_boolean:
        return schema  # Of a nested model.
    if _is_number(schema):
        return core_schema.no_info_before_validator_function(refuse_boolean, schema)  # type: ignore[arg-type]
    guarded = {
        key: inner if key in ("metadata", "default") else _guarded(inner) for key, inner in schema.items()
    }
    if kind == "union":  # A choice's type is a part of an error's path: it keeps its name.
        guarded["choices"] = [
            (new, old["type"]) if isinstance(old, dict) and _is_number(old) else new
            for new, old in zip(guarded["choices"], schema["choices"], strict=True)
        ]
    return guarded


class Strict(BaseModel):
    """For pydantic true is 1, too. Here it is refused wherever a number belongs, at any depth."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return _guarded(handler(source))
