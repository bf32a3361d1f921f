"""The registry of the doctor's checks, and their results (`Finding`)."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from cifarlab.core.records import Record
from cifarlab.core.registry import FORGETTERS

Severity = Literal["error", "warning", "note"]
# What a check needs. static: the configuration alone. batch: data, a model and one small batch. deep: a short
# training, or the teacher's outputs.
Stage = Literal["static", "batch", "deep"]
# A check yields reasons. A reason may come with its own fix, which replaces that of the check.
Reasons = Iterable[str | tuple[str, str]]
FINDING_LEVELS: tuple[Severity, ...] = ("error", "warning", "note")


class Finding(Record):
    """A problem that a check found in a recipe.

    Attributes:
        id: Name of the check.
        severity: `error`: the run is useless. `warning`: the result is worse than it could be, or misleading.
            `note`: possibly intended.
        reason: What is wrong, in one line.
        fix: What to do, in one line.
    """

    id: str
    severity: Severity
    reason: str
    fix: str

    def __str__(self) -> str:
        """Return the reason and the fix as one line."""
        return f"{self.reason}; {self.fix}"


@dataclass(frozen=True)
class Check:
    """A registered check.

    Attributes:
        id: Name of the check.
        stage: What it needs: only the configuration (static), a small batch (batch), or a short training or
            the teacher's outputs (deep).
        severity: Severity of its findings.
        fix: What to do about a finding.
        summary: What is checked: the first line of the docstring of `look`.
        look: The function of the check. It yields a reason for each finding.
        told: Whether training warns of the same problem by itself.
    """

    id: str
    stage: Stage
    severity: Severity
    fix: str
    summary: str
    look: Callable[[Any], Reasons]
    told: bool

    def findings(self, subject: Any) -> list[Finding]:
        """Run the check on a `Planned` (static) or a `Probe` (batch, deep)."""
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
    """Return a decorator that registers a function as a check.

    The check has the name of the function. The first line of the function's docstring says what is checked.

    Args:
        stage: What the check needs, see `Check`. The function gets a `Planned` if static, else a `Probe`.
        severity: Severity of its findings.
        fix: What to do about a finding, unless the function yields (reason, fix) instead of a reason.
        told: Whether training warns of the same problem by itself.
    """

    def add(look: Callable[[Any], Reasons]) -> Callable[[Any], Reasons]:
        name, summary = look.__name__, (inspect.getdoc(look) or "").partition("\n")[0]
        CHECKS[name] = Check(name, stage, severity, fix, summary, look, told)
        return look

    return add


def run_checks(stage: Stage, subject: Any) -> list[Finding]:
    """Run a stage's checks in the order of registration; return their findings.

    `subject` is a `Planned` for the static stage, else a `Probe`.
    """
    return [found for each in CHECKS.values() if each.stage == stage for found in each.findings(subject)]


def by_severity(findings: Iterable[Finding]) -> list[Finding]:
    """Sort findings by severity, errors first.

    Findings of the same severity keep their order.
    """
    return sorted(findings, key=lambda finding: FINDING_LEVELS.index(finding.severity))
