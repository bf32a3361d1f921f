"""A pydantic base class that does not accept `true` and `false` as 1 and 0."""

from __future__ import annotations

from typing import Any, TypeGuard, cast

from pydantic import BaseModel, GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema


def refuse_boolean(value: Any) -> Any:
    """Return the value. Raise ValueError if it is a boolean."""
    if isinstance(value, bool):
        raise ValueError("expected a number")
    return value


def _is_schema(value: object) -> TypeGuard[dict[str, Any]]:
    """Tell whether a value inside a pydantic schema is itself a schema.

    Any dict counts as a schema.
    """
    return isinstance(value, dict)


def _is_number(schema: dict[str, Any]) -> bool:
    """Tell whether a pydantic schema describes numbers, perhaps a `Literal` of them."""
    if schema.get("type") == "literal":
        kinds = {*map(type, schema["expected"])}
        return bool(kinds & {int, float}) and bool not in kinds
    return schema.get("type") in ("int", "float")


def _guarded(schema: Any) -> Any:
    """Return a pydantic schema that calls `refuse_boolean` before it validates a number."""
    if isinstance(schema, list | tuple):
        items = cast("list[Any] | tuple[Any, ...]", schema)
        return type(items)(map(_guarded, items))
    if not _is_schema(schema):
        return schema
    kind = schema.get("type")
    if kind == "function-before" and schema["function"]["function"] is refuse_boolean:
        return schema  # A nested model has guarded it already.
    if _is_number(schema):
        return core_schema.no_info_before_validator_function(refuse_boolean, cast("CoreSchema", schema))
    guarded = {
        key: inner if key in ("metadata", "default") else _guarded(inner) for key, inner in schema.items()
    }
    if kind == "union":  # Error paths contain the type of a choice, so each guarded choice keeps its label.
        guarded["choices"] = [
            (new, old["type"]) if _is_schema(old) and _is_number(old) else new
            for new, old in zip(guarded["choices"], schema["choices"], strict=True)
        ]
    return guarded


class Strict(BaseModel):
    """A pydantic model that refuses booleans in place of numbers, at any depth."""

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return _guarded(handler(source))
