"""What is to be told of a run before it begins."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Remarks:
    """Lines for the terminal and the run's record, in the order in which they came up."""

    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def note(self, *lines: str) -> None:
        """Add what is good to know."""
        self.notes += lines

    def warn(self, *lines: str) -> None:
        """Add what may make a result worse, or say less than it seems to."""
        self.warnings += lines
