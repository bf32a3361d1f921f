"""`Finding`, what is wrong with a recipe, and the registry of the checks that look for it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from cifarlab.core.records import Record
from cifarlab.core.registry import FORGETTERS

Severity = Literal["error", "warning", "note"]
# static: from the configuration alone. batch: data, a model and one small batch. deep: more than that.
Stage = Literal["static", "batch", "deep"]
# What a check yields: a reason, or a reason with a fix of its own in place of the check's.
Reasons = Iterable[str | tuple[str, str]]
FINDING_LEVELS: tuple[Severity, ...] = ("error", "warning", "note")


class Finding(Record):
    """Something wrong with a recipe. error: the run is worth nothing; note: worth knowing, perhaps meant."""

    id: str
    severity: Severity
    reason: str
    fix: str

    def __str__(self) -> str:
        """One line, as a run's warnings are."""
        return f"{self.reason}; {self.fix}"


@dataclass(frozen=True)
class Check:
    """A registered check. meaning: what its finding says of a recipe. told: `prepare` warns of it, too."""

    id: str
    stage: Stage
    severity: Severity
    fix: str
    meaning: str
    look: Callable[[Any], Reasons]
    told: bool

    def findings(self, subject: Any) -> list[Finding]:
        """Look at a `Planned` (static) or a `Probe` (batch, deep)."""
        pairs = [(said, self.fix) if isinstance(said, str) else said for said in self.look(subject)]
        return [Finding(id=self.id, severity=self.severity, reason=reason, fix=fix) for reason, fix in pairs]


CHECKS: dict[str, Check] = {}


def _forget(module: str) -> None:
    for name in [name for name, each in CHECKS.items() if each.look.__module__ == module]:
        del CHECKS[name]


FORGETTERS.append(_forget)


def check(
    stage: Stage, severity: Severity, fix: str, *, told: bool = False
) -> Callable[[Callable[[Any], Reasons]], Callable[[Any], Reasons]]:
    """Decorator: the function is the check named as it is, and its docstring's first line what is found."""

    def add(look: Callable[[Any], Reasons]) -> Callable[[Any], Reasons]:
        name, meaning = look.__name__, (inspect.getdoc(look) or "").partition("\n")[0]
        CHECKS[name] = Check(name, stage, severity, fix, meaning, look, told)
        return look

    return add


def run_checks(stage: Stage, subject: Any) -> list[Finding]:
    """What all checks of a stage find, in the order in which they were registered."""
    return [found for each in CHECKS.values() if each.stage == stage for found in each.findings(subject)]


def by_severity(findings: Iterable[Finding]) -> list[Finding]:
    """Errors first, notes last; within each in the order given."""
    return sorted(findings, key=lambda finding: FINDING_LEVELS.index(finding.severity))
