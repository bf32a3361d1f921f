"""The pydantic model of a part's options, made from the part's signature.

A part is a function or class that a recipe can name; see `cifarlab.core.registry`.
"""

from __future__ import annotations

import copy
import inspect
import typing
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, create_model

from cifarlab.core.strict_numbers import Strict

# Keys that a recipe sets beside a part's own options. No part may have an option of such a name.
RESERVED = ("name", "weight", "p", "before")


class _Options(Strict):
    """Base class of the models of parts' options."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, protected_namespaces=(), allow_inf_nan=False
    )


def part_schema(call: Callable[..., Any], name: str, fields_beside: Iterable[str]) -> type[BaseModel]:
    """Return a pydantic model of a callable's keyword-only parameters.

    Args:
        call: The part. For a class, the parameters of `__init__` are taken.
        name: Name of the part, for messages.
        fields_beside: Forbidden names of options. They are fields of the recipe's section that holds the
            options, such as `lr` in the section `optim`.

    Raises:
        TypeError: An option has a forbidden name, or no type annotation.
    """
    target = call.__init__ if inspect.isclass(call) else call
    hints = typing.get_type_hints(target, include_extras=True)
    options: dict[str, Any] = {}
    for parameter in inspect.signature(call).parameters.values():
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
            continue
        if parameter.name in RESERVED:
            raise TypeError(f"{name}: option {parameter.name!r} belongs to the registry; rename it")
        if parameter.name in fields_beside:
            raise named_like_a_field(name, parameter.name)
        if parameter.name not in hints:
            raise TypeError(f"{name}: option {parameter.name!r} needs a type annotation")
        if parameter.default is inspect.Parameter.empty:
            default = Field()
        else:
            default = Field(default_factory=partial(copy.deepcopy, parameter.default))
        options[parameter.name] = (hints[parameter.name], default)
    return create_model(name, __base__=_Options, **options)


def named_like_a_field(name: str, option: str) -> TypeError:
    """Return the error for an option named like a section's field."""
    return TypeError(f"{name}: option {option!r} has the name of a field of the same section; rename it")
