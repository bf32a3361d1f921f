"""What all sections of a configuration share."""

from __future__ import annotations

from pydantic import ConfigDict

from cifarlab.core.strict_numbers import Strict


class Section(Strict):
    """One frozen section of a configuration; unknown keys are errors, defaults are checked and saved."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, arbitrary_types_allowed=True, allow_inf_nan=False
    )
