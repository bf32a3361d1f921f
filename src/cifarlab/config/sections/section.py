"""Base class of the sections of a configuration."""

from __future__ import annotations

from pydantic import ConfigDict

from cifarlab.core.strict_numbers import Strict


class Section(Strict):
    """Base class of sections: a frozen pydantic model.

    Unknown keys are errors. Default values are validated, too.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, arbitrary_types_allowed=True, allow_inf_nan=False
    )
