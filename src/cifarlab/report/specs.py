"""Types of charts: specifications of Vega-Lite as plain data, and the rows that they show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

SpecValue: TypeAlias = "str | float | Sequence[SpecValue] | Mapping[str, SpecValue] | None"
ChartSpec = dict[str, SpecValue]
ChartRow = dict[str, str | float]
ChartRows = list[ChartRow]
