"""A ladder of recipes, each a change to the one below, and what is lost where its top does without one."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from cifarlab.config import recipes
from cifarlab.config.merge import Order, differences
from cifarlab.config.recipes import Recipe, read_recipe, resolve
from cifarlab.core.errors import ConfigError
from cifarlab.experiments.compare import Arm, compare_arms, find_arm, train_missing, trained_arm
from cifarlab.experiments.idle_options import refuse_idle_at_once, refuse_idle_overrides
from cifarlab.experiments.records import (
    Comparison,
    ComparisonRow,
    DroppedChange,
    KeptChange,
    LadderComparison,
    Metric,
    by_seed,
)
from cifarlab.experiments.statistics import difference
from cifarlab.experiments.wording import described
from cifarlab.training.progress import TrainingProgress

# A value that a configuration does not hold.
ABSENT = object()
Value = TypeVar("Value")


def run_ladder(
    prefix: str,
    runs: Path,
    seeds: int | None,
    overrides: Sequence[str],
    metric: Metric,
    drop_one: bool,
    progress: TrainingProgress,
    at_once: int,
    *,
    imports: Sequence[Path | str] = (),
) -> Comparison | LadderComparison:
    """Train the recipes whose names begin with `prefix`, in order, and compare each with the one below it.

    seeds: how many to train where they are missing; None: the finished runs as they are. drop_one: beside
    that, train the top again without each rung's change, and compare the top with each of those. at_once: as
    of `train_all`. imports: as of `load`. Returns the rungs, with drop_one a `LadderComparison` of them.
    Raises ConfigError for fewer than two recipes.
    """
    refuse_idle_overrides(overrides, seeds)
    refuse_idle_at_once(at_once, seeds)
    names = [name for name in recipes.recipe_names() if name.startswith(prefix)]
    if len(names) < 2:
        raise ConfigError(f"{prefix!r}: a ladder needs two recipes that begin so, found {names or 'none'}")
    rungs = [find_arm(name, runs, seeds, overrides=overrides, imports=imports) for name in names]
    left_out, kept = _left_out(rungs, runs, seeds, overrides) if drop_one else ({}, {})
    train_missing([*rungs, *left_out.values()], runs, progress, at_once)
    scored = compare_arms([rungs[-1], *left_out.values()], metric, "first").arms if left_out else []
    found = compare_arms(rungs, metric, "previous")
    if not drop_one:
        return found
    dropped = dict(zip(left_out, _worth(scored), strict=True))
    rows: list[DroppedChange | KeptChange] = [
        DroppedChange(left_out=name, **dropped[name].to_json())
        if name in dropped
        else KeptChange(left_out=name, kept=kept[name])
        for name in names[1:]
    ]
    return LadderComparison(**found.to_json(), drop_one=rows)


def _worth(scored: Sequence[ComparisonRow]) -> list[ComparisonRow]:
    """The rows of what was left out, each with the difference from it to the top, the first of `scored`."""
    top, *others = [by_seed(row) for row in scored] or [{}]
    without = scored[1:]
    records = described([difference(top, other) for other in others], against=[row.name for row in without])
    return [row.changed(difference=record) for row, record in zip(without, records, strict=True)]


def _left_out(
    rungs: Sequence[Arm], runs: Path, seeds: int | None, overrides: Sequence[str]
) -> tuple[dict[str, Arm], dict[str, str]]:
    """By rung: the top without its change, as an arm; and why some changes cannot be left out."""
    plain = [resolve(read_recipe(rung.name), overrides).dump() for rung in rungs]
    top = read_recipe(rungs[-1].name)
    arms, kept = {}, {}
    for rung, below, changed in zip(rungs[1:-1], plain, plain[1:], strict=False):
        name = f"{top.name}_without_{Path(rung.name).name}"
        try:
            recipe = Recipe(top.name, top.path, None, {}, undo(plain[-1], below, changed), top.files)
            if seeds is None and not (runs / name).is_dir():
                raise ConfigError("not trained yet; say --seeds 3")
            arms[rung.name] = (
                trained_arm(name, recipe, runs, seeds) if seeds is not None else find_arm(name, runs, None)
            )
        except ConfigError as error:
            kept[rung.name] = str(error)
    # Without its own change the top is the rung below it.
    return {**arms, rungs[-1].name: rungs[-2]}, kept


def undo(top: Mapping[str, Any], below: Mapping[str, Any], rung: Mapping[str, Any]) -> dict[str, Any]:
    """The resolved configuration `top` with each key that `rung` changed as it was `below` it.

    A label that `rung` removed or moved goes back to its place among the labels of `below`. Raises
    ConfigError where the rung changed nothing, or `top` no longer holds what it changed.
    """
    changed = differences(below, rung)
    if not changed:
        raise ConfigError("it changes nothing under these overrides")
    without = copy.deepcopy(dict(top))
    for key, (old, _) in changed.items():
        path = key.split(".")
        is_moved = isinstance(old, Order)
        before, after, last = (_value(plain, path) for plain in (below, rung, top))
        if _is_moved_again(before, after, last) if is_moved else differences(last, after, path=tuple(path)):
            what = f"the order of {key}" if is_moved else key
            raise ConfigError(f"a later rung changes {what} again")
        parent = without
        for part in path[:-1]:
            parent = parent.setdefault(part, {})
        if is_moved:
            _sort(parent[path[-1]], list(before))
        elif before is ABSENT:
            parent.pop(path[-1], None)
        elif path[-1] in parent:
            parent[path[-1]] = copy.deepcopy(before)
        else:
            _insert(parent, path[-1], copy.deepcopy(before), list(_value(below, path[:-1])))
    return without


def _is_moved_again(below: Collection[str], rung: Collection[str], top: Any) -> bool:
    """Tell whether `top` holds the labels that `rung` moved in another order than `rung`."""
    moved = [label for label in rung if label in below]
    return not isinstance(top, Mapping) or [label for label in top if label in moved] != moved


def _sort(section: dict[str, Value], labels: Sequence[str]) -> None:
    """Bring those of `labels` that `section` holds into their order; other keys keep their places."""
    sorted_labels = iter([label for label in labels if label in section])
    keys = [next(sorted_labels) if key in labels else key for key in section]
    _rearrange(section, keys)


def _insert(section: dict[str, Value], label: str, value: Value, labels: Sequence[str]) -> None:
    """Add `label` to `section`, next to its neighbour in `labels`: behind the one before it, if any."""
    keys, at = list(section), labels.index(label)
    section[label] = value
    earlier = next((key for key in reversed(labels[:at]) if key in keys), None)
    later = next((key for key in labels[at + 1 :] if key in keys), None)
    if earlier is not None:
        keys.insert(keys.index(earlier) + 1, label)
    elif later is not None:
        keys.insert(keys.index(later), label)
    else:
        keys.append(label)
    _rearrange(section, keys)


def _rearrange(section: dict[str, Value], keys: Sequence[str]) -> None:
    values = {key: section[key] for key in keys}
    section.clear()
    section.update(values)


def _value(plain: Any, path: Sequence[str]) -> Any:
    for key in path:
        if not isinstance(plain, Mapping) or key not in plain:
            return ABSENT
        plain = plain[key]
    return plain
