"""Registries of parts: functions and classes that a recipe can name, such as losses.

A part's keyword-only parameters are the options that a recipe may set.
"""

from __future__ import annotations

import inspect
import math
import sys
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from cifarlab.core.errors import ConfigError, did_you_mean, explain, unknown
from cifarlab.core.part_schema import named_like_a_field, part_schema
from cifarlab.core.plain import is_mapping
from cifarlab.core.strict_numbers import refuse_boolean

# Called with the name of a module before it is reloaded. Each removes what the module registered.
FORGETTERS: list[Callable[[str], None]] = []
ANY_TYPE = ConfigDict(arbitrary_types_allowed=True)


@dataclass(frozen=True)
class Part:
    """A registered function or class.

    Attributes:
        name: Its name in recipes.
        call: The function or class.
        schema: Pydantic model of the options.
        doc: First line of the docstring of `call`.
        traits: Facts that the part declares about itself, an instance of the registry's `traits` class.
        module: Name of the module that registered the part. It may differ from `call.__module__`.
    """

    name: str
    call: Callable[..., Any]
    schema: type[BaseModel]
    doc: str
    traits: Any = None
    module: str = ""

    @property
    def options(self) -> dict[str, Any]:
        """The default of each option, by name; `...` for a required option."""
        return {
            key: ... if field.is_required() else field.get_default(call_default_factory=True)
            for key, field in self.schema.model_fields.items()
        }


@dataclass(frozen=True)
class Spec:
    """A part as a recipe uses it: with validated, frozen options.

    Attributes:
        part: The part.
        options: Values of the part's options, an instance of `part.schema`.
        weight: Factor of a loss in the weighted sum of losses. 1 for other parts.
        p: Probability that an augmentation or mixer is applied to a picture. 1 for other parts.
        beside: Which of `weight` and `p` a recipe can set for the part: `("weight",)`, `("p",)` or `()`.
    """

    part: Part
    options: BaseModel
    weight: float = 1.0
    p: float = 1.0
    beside: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name of the part."""
        return self.part.name

    def kwargs(self) -> dict[str, Any]:
        """Return the options as keyword arguments. Nested parts remain `Spec`s."""
        return {key: getattr(self.options, key) for key in type(self.options).model_fields}

    def build(self, *given: Any) -> Any:
        """Call the part with positional arguments `given` and the options."""
        return self.part.call(*given, **self.kwargs())

    def bind(self) -> Callable[..., Any]:
        """Return a function of the part's positional arguments, with the options set."""
        return partial(self.part.call, **self.kwargs())

    def dump(self) -> dict[str, Any]:
        """Return plain data in the form of a recipe. `Registry.spec` parses it."""
        beside = {key: getattr(self, key) for key in self.beside}
        return {"name": self.name, **self.options.model_dump(mode="json"), **beside}


@dataclass(frozen=True)
class NoTraits:
    """Empty class of traits, for kinds of parts that declare none."""


class Registry:
    """A mapping from names to parts of one kind.

    Args:
        kind: Name of the kind in messages, e.g. `loss`.
        beside: Keys that a recipe can set besides a part's options: `("weight",)`, `("p",)` or `()`.
        traits: Frozen dataclass of the facts that a part may declare about itself. All have defaults.
    """

    def __init__(self, kind: str, *, beside: tuple[str, ...] = (), traits: type = NoTraits):
        self.kind, self.beside, self.traits = kind, beside, traits
        self._parts: dict[str, Part] = {}
        self._fields_beside: frozenset[str] = frozenset()
        self._open: tuple[Part, Callable[[str], bool], Callable[[], Iterable[str]]] | None = None
        FORGETTERS.append(self._forget)

    def _forget(self, module: str) -> None:
        for name in [name for name, part in self._parts.items() if part.module == module]:
            del self._parts[name]

    def reserve(self, names: Iterable[str]) -> None:
        """Forbid parts to have options with these names.

        The section that holds the options has fields of these names, such as `lr` in the section `optim`.

        Raises:
            TypeError: A registered part already has an option with such a name.
        """
        self._fields_beside |= frozenset(names)
        for part in self.parts():
            for option in part.schema.model_fields:
                if option in self._fields_beside:
                    raise named_like_a_field(part.name, option)

    def register(
        self, call: Any = None, *, name: str | None = None, module: str | None = None, **traits: Any
    ) -> Any:
        """Register a function or class. Use it as a decorator, with or without arguments.

        Args:
            call: The part.
            name: Name of the part in recipes. Default: `call.__name__`.
            module: Name of the module that registers the part. Default: the one that calls this method.
            traits: Traits of the part, e.g. `soft_targets=False`.

        Returns:
            `call` unchanged, or a decorator if `call` is None.

        Raises:
            TypeError: An option is unannotated or has a forbidden name, or a trait is unknown or mistyped.
            ValueError: Other code has registered the name.
        """
        if call is None:
            return partial(self.register, name=name, module=module, **traits)
        name = name or str(call.__name__)
        doc = (inspect.getdoc(call) or "").partition("\n")[0]
        caller = sys._getframe(1)  # pyright: ignore[reportPrivateUsage]  # documented, despite its name
        home = caller.f_globals.get("__name__", "") if module is None else module
        self._refuse_traits(name, traits)
        schema = part_schema(call, name, self._fields_beside)
        part = Part(name, call, schema, doc, self.traits(**traits), home)
        old = self._parts.get(name)
        # A reloaded module may replace its own parts.
        if old and (old.call.__module__, old.call.__qualname__) != (call.__module__, call.__qualname__):
            raise ValueError(f"{self.kind} {name!r} is already registered by {old.call.__module__}")
        self._parts[name] = part
        return call

    def _refuse_traits(self, name: str, traits: Mapping[str, Any]) -> None:
        """Raise TypeError if a trait is unknown or has a wrong type."""
        types = typing.get_type_hints(self.traits, include_extras=True)
        for trait, value in traits.items():
            if trait not in types:
                raise TypeError(f"{name}: a {self.kind} has no trait {trait!r}: {unknown(trait, types)}")
            try:
                TypeAdapter(types[trait], config=ANY_TYPE).validate_python(value, strict=True)
            except ValidationError as error:
                raise TypeError(f"{name}: trait {trait!r}: {explain(error, lambda _: ())}") from None

    def register_open(
        self, title: str, accepts: Callable[[str], bool], names: Callable[[], Iterable[str]]
    ) -> Any:
        """Return a decorator that registers the open part, used for unregistered names.

        For example, one function builds any timm model. It gets the name as its first argument.

        Args:
            title: Name of the open part in listings.
            accepts: Tells whether the open part supports a name.
            names: Returns names to suggest for a misspelt one.
        """

        def add(call: Any) -> Any:
            doc = (inspect.getdoc(call) or "").partition("\n")[0]
            schema = part_schema(call, call.__name__, self._fields_beside)
            self._open = Part(title, call, schema, doc, self.traits()), accepts, names
            return call

        return add

    def parts(self) -> list[Part]:
        """Return all parts, sorted by name, the open part last."""
        return [self._parts[name] for name in self] + ([self._open[0]] if self._open else [])

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._parts))

    def __contains__(self, name: str) -> bool:
        return name in self._parts

    def open_part(self, name: str) -> Part | None:
        """Return the part for unregistered names, its first argument bound to `name`.

        None if there is no such part, if it does not support `name`, or if `name` is registered.
        """
        is_open = self._open is not None and name not in self._parts and self._open[1](name)
        return self[name] if is_open else None

    def __getitem__(self, name: str) -> Part:
        """Return the part `name`, or the result of `open_part` if it is not registered.

        Raises:
            ConfigError: There is no such part. The message suggests a similar name.
        """
        if name in self._parts:
            return self._parts[name]
        if self._open:
            part, accepts, names = self._open
            if accepts(name):
                return Part(name, partial(part.call, name), part.schema, part.doc, part.traits)
            known = [*self._parts, *names()]
        else:
            known = list(self._parts)
        hint = did_you_mean(name, known)
        raise ConfigError(f"unknown {self.kind} {name!r}" + (f"; {hint}" if hint else ""))

    def spec(self, value: Any) -> Spec:
        """Parse `{name: ..., **options}`, or a string that is the name.

        Raises:
            ConfigError: The name is unknown or an option is wrong. The error's `path` leads to the wrong key.
        """
        if isinstance(value, Spec):
            return value
        if isinstance(value, str):
            value = {"name": value}
        if not is_mapping(value):
            raise ConfigError(f"expected a {self.kind}'s name or its options as a mapping, got {value!r}")
        options = dict(value)
        name = options.pop("name", None)
        if not isinstance(name, str):
            raise ConfigError(f"expected the name of a {self.kind}; known: {', '.join(self)}", ("name",))
        beside = {key: _number(key, options.pop(key)) for key in self.beside if key in options}
        part = self[name]
        try:
            parsed = part.schema.model_validate(options)
        except ValidationError as error:
            raise explain(error, lambda _: [*part.schema.model_fields, *self.beside]) from None
        return Spec(part, parsed, beside=self.beside, **beside)

    def labelled(self, value: Any) -> Any:
        """Normalise a section such as `objective` to `{label: {name: ..., **options}}`.

        The user chooses the labels. A missing `name` is the label. `{label: text}` means
        `{label: {name: text}}`. A string in place of the whole section means `{string: {}}`.
        """
        if value is None:
            return {}
        if isinstance(value, str):
            value = {value: {}}
        if not is_mapping(value):
            raise ConfigError(f"expected {{label: options}}, one {self.kind} each; got {value!r}")
        if isinstance(alone := value.get("name"), str):
            raise ConfigError(f"expected {{label: options}}, one {self.kind} each; write {{{alone}: {{}}}}")

        def named(label: str, options: Any) -> Any:
            if isinstance(options, Spec):
                return options
            if isinstance(options, str):
                return {"name": options}
            if options is not None and not is_mapping(options):
                raise ConfigError(f"expected options or a name, got {options!r}; null removes it", (label,))
            return {"name": label, **(options or {})}

        return {str(label): named(str(label), options) for label, options in value.items()}


def _number(key: str, value: Any) -> float:
    try:
        number = float(refuse_boolean(value))
    except (TypeError, ValueError):
        raise ConfigError(f"expected a number, got {value!r}", (key,)) from None
    if not math.isfinite(number):
        raise ConfigError(f"expected a finite number, got {value!r}", (key,))
    if key == "p" and not 0 <= number <= 1:
        raise ConfigError(f"expected a probability from 0 to 1, got {number}", (key,))
    return number
