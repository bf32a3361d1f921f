"""Operations on plain configurations: merge, overrides, order of labels, differences.

A plain configuration is what YAML holds: nested mappings, lists and values. The labelled sections
`objective`, `data.augment` and `data.mix` map labels, which the user chooses, to parts (losses,
augmentations, mixers) and their options.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from cifarlab.config import OptimConfig
from cifarlab.core.errors import ConfigError, unknown
from cifarlab.core.part_schema import RESERVED
from cifarlab.core.plain import Plain, is_dict, is_mapping
from cifarlab.core.reading import parse_yaml

# Sections of the form `{label: options}`. In them, and below them, `label: null` removes an entry.
LABELLED = (("objective",), ("data", "augment"), ("data", "mix"))

# Number of differences that `listed` shows before it abbreviates.
LISTED = 4


def merge_sections(
    base: Mapping[str, Plain], child: Mapping[str, Plain], *, path: tuple[str, ...] = ()
) -> dict[str, Plain]:
    """Merge `child` recursively into `base`; return a new mapping.

    If `child` changes the `name` of a part, the part's options in `base` are dropped. The part's keys
    `weight`, `p` and `before` are kept, and so are the fields of the section `optim`, such as `lr`.
    `label: null` removes a loss, augmentation or mixer. A string in place of `{label: options}` stands for
    that label without options.

    Args:
        base: The configuration to change.
        child: The changes. Where both have a value, this one is taken.
        path: Keys that lead to both in the complete configuration. Empty for complete configurations.

    Raises:
        ConfigError: `label: null` names a label that `base` does not have.
    """
    merged = copy.deepcopy(dict(base))
    is_part = bool(path) and not _holds_labels(path)
    if is_part and "name" in child and child["name"] != merged.get("name", path[-1]):
        beside = {*RESERVED, *OptimConfig.model_fields} if path == ("optim",) else {*RESERVED}
        merged = {key: value for key, value in merged.items() if key in beside}
    for key, value in child.items():
        here = (*path, str(key))
        old = merged.get(key)
        if here in LABELLED or (_holds_labels(here) and (is_mapping(value) or is_mapping(old))):
            value, old = _labelled(value), _labelled(old)
        if value is None and path in LABELLED:
            if key not in merged:
                raise ConfigError(f"nothing to remove: {unknown(str(key), merged)}", here)
            del merged[key]
        elif value is None and (here in LABELLED or (is_mapping(old) and _is_labelled(path))):
            merged.pop(key, None)
        elif is_mapping(value):
            merged[key] = merge_sections(old if is_mapping(old) else _named(old), value, path=here)
        elif isinstance(value, str) and is_mapping(old):
            merged[key] = merge_sections(old, {"name": value}, path=here)
        else:
            merged[key] = copy.deepcopy(value)
    return merged


def _is_labelled(path: tuple[str, ...]) -> bool:
    return any(path[: len(prefix)] == prefix for prefix in LABELLED)


def _holds_labels(path: tuple[str, ...]) -> bool:
    """Tell whether the mapping at `path` has labels as keys.

    These mappings are the labelled sections and, within them, the option `choices` of a part.
    """
    below = next((path[len(prefix) :] for prefix in LABELLED if path[: len(prefix)] == prefix), ("",))
    return len(below) % 2 == 0 and set(below[1::2]) <= {"choices"}


def _labelled(value: Plain) -> Plain:
    return {value: {}} if isinstance(value, str) else value


def _named(value: Plain) -> dict[str, Plain]:
    return {"name": value} if isinstance(value, str) else {}


def apply_before(plain: Mapping[str, Plain]) -> dict[str, Plain]:
    """Move each part with `before: label` in front of that label.

    Returns:
        A new configuration without the keys `before`.

    Raises:
        ConfigError: `before` names a label that does not exist.
    """
    ordered = copy.deepcopy(dict(plain))
    for path in LABELLED:
        parent = ordered
        for key in path[:-1]:
            parent = parent.get(key)
            parent = parent if is_dict(parent) else {}
        entries = parent.get(path[-1])
        if is_mapping(entries):
            parent[path[-1]] = _ordered(entries, path)
    return ordered


def _ordered(entries: Mapping[str, Plain], path: tuple[str, ...]) -> dict[str, Plain]:
    labels = list(entries)
    for label, options in entries.items():
        if not is_mapping(options) or "before" not in options:
            continue
        target = options["before"]
        if not isinstance(target, str) or target not in entries or target == label:
            raise ConfigError(
                unknown(str(target), [other for other in entries if other != label]), (*path, label, "before")
            )
        labels.remove(label)
        labels.insert(labels.index(target), label)

    def plain(options: Plain) -> Plain:
        return {k: v for k, v in options.items() if k != "before"} if is_mapping(options) else options

    return {label: plain(entries[label]) for label in labels}


def parse_override(text: str) -> dict[str, Plain]:
    """Parse an override into nested mappings: `optim.lr=1` gives `{optim: {lr: 1}}`.

    The value is read as YAML.

    Raises:
        ConfigError: The text is not `key=value`, or the value is not YAML.
    """
    key, equals, value = text.partition("=")
    if not equals or not all(key.split(".")):
        raise ConfigError(f"{text!r} is not an override; write key=value, e.g. optim.lr=3e-4")
    path = tuple(key.split("."))
    *above, last = path
    nested: dict[str, Plain] = {last: parse_yaml(value, repr(value), path)}
    for part in reversed(above):
        nested = {part: nested}
    return nested


def refuse_twice(overrides: Iterable[str]) -> None:
    """Raise ConfigError if two overrides set the same key."""
    setters: dict[str, str] = {}
    for text in overrides:
        for key in _keys_set(parse_override(text)):
            if key in setters:
                raise ConfigError(f"{key}: given twice, by {setters[key]!r} and {text!r}; leave one out")
            setters[key] = text


def _keys_set(value: Plain, path: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield the dotted keys whose values a parsed override replaces."""
    if path == ("imports",) or (isinstance(value, str) and _holds_labels(path)):
        return  # These add an entry and replace nothing.
    if is_mapping(value):
        for key, inner in value.items():
            yield from _keys_set(inner, (*path, str(key)))
    else:
        yield ".".join(path).removesuffix(".name")  # `optim=sgd` and `optim.name=sgd` set the same key.


class Order(tuple[str, ...]):
    """The keys of a labelled section in order. `differences` returns it if the order has changed."""

    def __str__(self) -> str:
        return f"order [{', '.join(self)}]"


def differences(old: Any, new: Any, *, path: tuple[str, ...] = ()) -> dict[str, tuple[Any, Any]]:
    """Compare two plain configurations.

    Args:
        old: One configuration.
        new: The other configuration.
        path: Keys that lead to both in the complete configuration. Empty for complete configurations.

    Returns:
        {dotted key: (old value, new value)}, with None for an absent key. If the labels of a labelled
        section have changed their order, there is also an entry {key of the section: (old `Order`, new
        `Order`)}, after the entries of single labels. Added and removed labels do not count as such a change.
    """
    if not (is_mapping(old) and is_mapping(new)):
        return {} if old == new else {".".join(path): (old, new)}
    found: dict[str, tuple[Any, Any]] = {}
    for key in [*old, *(k for k in new if k not in old)]:
        found |= differences(old.get(key), new.get(key), path=(*path, str(key)))
    if _is_ordered(path) and [key for key in old if key in new] != [key for key in new if key in old]:
        found[".".join(path)] = Order(map(str, old)), Order(map(str, new))
    return found


def _is_ordered(path: tuple[str, ...]) -> bool:
    """Tell whether the order of the keys at `path` matters.

    It matters in a labelled section. Augmentations and mixers run in order. The losses are summed in order.
    If they have parameters, these are initialised, and numbered in the optimizer's state, in that order. It
    also matters in an option of a labelled part, since the option may contain labels, as `choices` does. All
    other keys are fields and options, whose order has no effect.
    """
    return any(path[: len(prefix)] == prefix and (len(path) - len(prefix)) % 2 == 0 for prefix in LABELLED)


def shown(value: Any) -> str:
    """Format a value in the result of `differences` for printing."""
    if isinstance(value, Order):
        return str(value)
    return "nothing" if value is None else json.dumps(value)


def listed(changed: Mapping[str, tuple[Any, Any]], old_side: str, new_side: str) -> str:
    """Format the first few differences as one line.

    An example is `optim.lr: 0.1 there, 0.2 now; train.seed: 0 there, 1 now`.

    Args:
        changed: Result of `differences`.
        old_side: Word to print after each old value, e.g. `there`.
        new_side: Word to print after each new value, e.g. `now`.
    """
    shown_ones = [
        f"{key}: {_brief(old)} {old_side}, {_brief(new)} {new_side}"
        for key, (old, new) in list(changed.items())[:LISTED]
    ]
    more = [f"and {len(changed) - LISTED} more"] if len(changed) > LISTED else []
    return "; ".join([*shown_ones, *more])


def _brief(value: Any) -> str:
    if isinstance(value, Order):  # Not shortened: two orders may begin alike.
        return str(value)
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
