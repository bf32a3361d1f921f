"""Ladders: series of recipes, each of which adds a change to the previous one.

A rung is one of these recipes; the top is the last one. The effect of a change is measured by adding it to
the rung below, or by leaving it out of the top.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from cifarlab.config import recipes
from cifarlab.config.merge import Order, differences
from cifarlab.config.recipes import Recipe, read_recipe, resolve
from cifarlab.core.errors import ConfigError
from cifarlab.core.plain import is_mapping
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

# Marks a key that a configuration does not hold.
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
    """Train the recipes of a ladder, and compare each with the previous.

    Args:
        prefix: Prefix of the recipes' names, e.g. `ladder/`. The rungs are in the order of `recipe_names`.
        runs: Folder of all runs.
        seeds: Number of seeds; missing runs are trained. None: compare the finished runs.
        overrides: Overrides of each recipe.
        metric: Accuracy to compare: val or test.
        drop_one: Also train the top without each rung's change in turn. This shows how much accuracy the top
            loses without each change.
        progress: Receives the progress of the training.
        at_once: Number of runs that are trained at the same time.
        imports: Python files or modules that register the runs' custom parts.

    Returns:
        The comparison of the rungs; with `drop_one` a `LadderComparison`.

    Raises:
        ConfigError: Fewer than two recipes have the prefix, or an option does not fit.
    """
    refuse_idle_overrides(overrides, seeds)
    refuse_idle_at_once(at_once, seeds)
    names = [name for name in recipes.recipe_names() if name.startswith(prefix)]
    if len(names) < 2:
        raise ConfigError(f"{prefix!r}: a ladder needs two recipes with this prefix, found {names or 'none'}")
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
    """Return all rows but the first, each with its `difference` set.

    The first row is the top. Each other row is the top without one change. Its `difference` is the score of
    the top minus its own score.
    """
    top, *others = [by_seed(row) for row in scored] or [{}]
    without = scored[1:]
    records = described([difference(top, other) for other in others], against=[row.name for row in without])
    return [row.changed(difference=record) for row, record in zip(without, records, strict=True)]


def _left_out(
    rungs: Sequence[Arm], runs: Path, seeds: int | None, overrides: Sequence[str]
) -> tuple[dict[str, Arm], dict[str, str]]:
    """Find runs of the top without the change of one rung.

    This is done for each rung but the first, which has no change.

    Returns:
        Two mappings by the name of the rung: the runs without the rung's change; and the reason why the
        change cannot be left out. A rung is in one of the two.
    """
    plain = [resolve(read_recipe(rung.name), overrides).dump() for rung in rungs]
    top = read_recipe(rungs[-1].name)
    arms: dict[str, Arm] = {}
    kept: dict[str, str] = {}
    for rung, below, changed in zip(rungs[1:-1], plain, plain[1:], strict=False):
        name = f"{top.name}_without_{Path(rung.name).name}"
        try:
            recipe = Recipe(top.name, top.path, None, {}, undo(plain[-1], below, changed), top.files)
            if seeds is None and not (runs / name).is_dir():
                raise ConfigError("not trained yet; add --seeds 3")
            arms[rung.name] = (
                trained_arm(name, recipe, runs, seeds) if seeds is not None else find_arm(name, runs, None)
            )
        except ConfigError as error:
            kept[rung.name] = str(error)
    # The top without its own change is the rung below it.
    return {**arms, rungs[-1].name: rungs[-2]}, kept


def undo(top: Mapping[str, Any], below: Mapping[str, Any], rung: Mapping[str, Any]) -> dict[str, Any]:
    """Return the top's configuration without the change that a rung made.

    Each key that the rung changed gets its value in `below`. In some sections the order of the keys counts;
    their keys are called labels. A label that the rung removed or moved returns to its place among the labels
    of `below`.

    Args:
        top: Resolved configuration of the top.
        below: Resolved configuration of the rung below `rung`.
        rung: Resolved configuration of the rung.

    Raises:
        ConfigError: The rung changes nothing, or a later rung changes the same key again.
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
    """Tell whether a later rung changed the order of labels again.

    The arguments are one section of the three configurations of `undo`. True if the labels that `below` and
    `rung` share are in another order in `top`, or some of them are missing there.
    """
    moved = [label for label in rung if label in below]
    return not is_mapping(top) or [label for label in top if label in moved] != moved


def _sort(section: dict[str, Value], labels: Sequence[str]) -> None:
    """Sort the keys that occur in `labels` by their order there.

    Other keys keep their positions.
    """
    sorted_labels = iter([label for label in labels if label in section])
    keys = [next(sorted_labels) if key in labels else key for key in section]
    _rearrange(section, keys)


def _insert(section: dict[str, Value], label: str, value: Value, labels: Sequence[str]) -> None:
    """Insert a label into a section, in the order of `labels`.

    It comes after the nearest label that precedes it in `labels` and is in the section. If there is none, it
    comes before the nearest one that follows it.
    """
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
        if not is_mapping(plain) or key not in plain:
            return ABSENT
        plain = plain[key]
    return plain
