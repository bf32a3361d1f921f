"""Base class of the sections of a configuration."""

from __future__ import annotations

from pydantic import ConfigDict

from cifarlab.core.strict_numbers import Strict


class Section(Strict):
    """A frozen section of a configuration.

    Unknown keys are errors. Defaults are validated. A saved configuration includes them.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, arbitrary_types_allowed=True, allow_inf_nan=False
    )
