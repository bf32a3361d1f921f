"""Notes and warnings about a run, collected before it begins."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Remarks:
    """Notes and warnings to print and to record in `env.json`, one line each."""

    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def note(self, *lines: str) -> None:
        """Add notes: facts that are good to know."""
        self.notes += lines

    def warn(self, *lines: str) -> None:
        """Add warnings. The result may be worse, or less meaningful than it seems."""
        self.warnings += lines
