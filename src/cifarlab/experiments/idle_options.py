"""Options of a comparison that would do nothing, since nothing is to be trained."""

from __future__ import annotations

from collections.abc import Sequence

from cifarlab.core.errors import ConfigError


def refuse_idle_overrides(overrides: Sequence[str], seeds: int | None) -> None:
    """Raise ConfigError where overrides are given, and no seeds to be trained with them."""
    if overrides and seeds is None:
        raise ConfigError(f"{overrides[0]}: overrides say how to train; say how many seeds, e.g. --seeds 3")


def refuse_idle_at_once(at_once: int, seeds: int | None) -> None:
    """Raise ConfigError where there are no seeds to be trained at the same time."""
    if at_once > 1 and seeds is None:
        raise ConfigError(f"--at-once {at_once}: of how many runs? Say, e.g., --seeds {at_once}")
