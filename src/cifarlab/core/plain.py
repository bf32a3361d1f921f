"""Plain data (what a YAML or JSON file holds) and type guards for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias, TypeGuard

Plain: TypeAlias = "bool | int | float | str | Sequence[Plain] | Mapping[str, Plain] | None"


# `isinstance` alone would leave the types of keys and items unknown.
def is_mapping(value: object) -> TypeGuard[Mapping[str, Plain]]:
    """Tell whether plain data are a mapping."""
    return isinstance(value, Mapping)


def is_dict(value: object) -> TypeGuard[dict[str, Plain]]:
    """Tell whether plain data are a dict, which may be changed."""
    return isinstance(value, dict)


def is_list(value: object) -> TypeGuard[list[Plain]]:
    """Tell whether plain data are a list, as YAML and JSON give it."""
    return isinstance(value, list)


def is_sequence(value: object) -> TypeGuard[list[Plain] | tuple[Plain, ...]]:
    """Tell whether plain data are a list or a tuple."""
    return isinstance(value, list | tuple)
