"""Types of charts: Vega-Lite specifications as plain data, and the rows of data that they draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

SpecValue: TypeAlias = "str | float | Sequence[SpecValue] | Mapping[str, SpecValue] | None"
ChartSpec = dict[str, SpecValue]
ChartRow = dict[str, str | float]
ChartRows = list[ChartRow]
