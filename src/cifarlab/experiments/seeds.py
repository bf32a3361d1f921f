"""Checks that the runs of one name differ in the seed only."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cifarlab.config import build_config, identity_of
from cifarlab.config.imports import import_builtin_parts
from cifarlab.config.merge import apply_before, differences, listed
from cifarlab.core.errors import ConfigError
from cifarlab.core.plain import Plain
from cifarlab.runs.folder import Run


def seed_differences(first: Mapping[str, Plain], other: Mapping[str, Plain]) -> dict[str, tuple[Any, Any]]:
    """Compare two saved configurations, without seeds and paths.

    If this version of cifarlab can read both, defaults that an older version did not save are filled in
    first.

    Returns:
        {dotted key: (value in `first`, value in `other`)} for each key that differs.
    """
    found = differences(_experiment(first), _experiment(other))
    if not found:
        return {}
    import_builtin_parts()
    try:
        one, two = (build_config(apply_before(plain)).dump() for plain in (first, other))
    except ConfigError:  # A part of a configuration is not registered here.
        return found
    return differences(_experiment(one), _experiment(two))


def refuse_mixed_seeds(name: str, runs: Mapping[int, Run]) -> None:
    """Raise ConfigError if runs of one name differ in more than seeds.

    Args:
        name: Name of the runs.
        runs: The runs by seed.
    """
    (first, reference), *others = runs.items()
    for seed, run in others:
        if changed := seed_differences(reference.plain_config(), run.plain_config()):
            what = listed(changed, f"in seed {first}", f"in seed {seed}")
            apart = run.runs / f"{name}-2" / str(seed)
            raise ConfigError(
                f"{name}: seeds {first} and {seed} have different configurations ({what}); rename {run}, "
                f"e.g. to {apart}, or retrain it with --fresh"
            )


def _experiment(plain: Mapping[str, Plain]) -> dict[str, Plain]:
    """Return the configuration without its paths and its seed."""
    plain = identity_of(dict(plain))
    plain["train"].pop("seed", None)
    return plain
