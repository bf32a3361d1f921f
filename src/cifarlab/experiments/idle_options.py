"""Errors for options without effect because nothing is trained."""

from __future__ import annotations

from collections.abc import Sequence

from cifarlab.core.errors import ConfigError


def refuse_idle_overrides(overrides: Sequence[str], seeds: int | None) -> None:
    """Raise ConfigError if overrides are given without seeds to train."""
    if overrides and seeds is None:
        raise ConfigError(f"{overrides[0]}: overrides need a number of seeds, e.g. --seeds 3")


def refuse_idle_at_once(at_once: int, seeds: int | None) -> None:
    """Raise ConfigError if simultaneous runs are requested without seeds to train."""
    if at_once > 1 and seeds is None:
        raise ConfigError(f"--at-once {at_once} needs a number of seeds, e.g. --seeds {at_once}")
