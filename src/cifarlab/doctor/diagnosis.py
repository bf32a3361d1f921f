"""`diagnose`: the findings for a recipe, and an estimate of its cost."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from cifarlab.config import Config, build_config
from cifarlab.core.errors import ConfigError
from cifarlab.core.records import Record
from cifarlab.data.cifar import CIFAR10, CIFAR100
from cifarlab.data.download import is_at_hand
from cifarlab.doctor.check_registry import Finding, by_severity, run_checks
from cifarlab.doctor.estimate import CostEstimate, estimate_cost
from cifarlab.doctor.plan_facts import planned
from cifarlab.doctor.probe import Probe
from cifarlab.models.backbones import has_weights
from cifarlab.teachers import find_teacher
from cifarlab.training.memory import out_of_memory_explained
from cifarlab.training.setup import prepare

_ARCHIVES = {"cifar100": CIFAR100, "cifar10": CIFAR10}
# Number of synthetic pictures that replace missing data: enough to compare two views and for a GPU's batch.
_DRAWN = 1000


class DiagnosisRecord(Record):
    """The output of `cifarlab check --json`.

    `minutes`, `peak_memory_bytes` and `device` are None if there is an error among the findings, or if the
    number of steps is unknown.

    Attributes:
        findings: The findings, errors first.
        minutes: Estimated duration of the run in minutes.
        peak_memory_bytes: Estimated peak memory, see `CostEstimate`.
        device: The device that the estimate is for.
        left_out: What was replaced or not checked, one line each.
    """

    findings: list[Finding]
    minutes: float | None
    peak_memory_bytes: int | None
    device: str | None
    left_out: list[str]


@dataclass(frozen=True)
class Diagnosis:
    """The findings for a recipe.

    Attributes:
        findings: The findings, errors first.
        estimate: The estimated cost. None if a finding is an error, or the number of steps is unknown.
        left_out: What was replaced or not checked, one line each.
    """

    findings: tuple[Finding, ...]
    estimate: CostEstimate | None
    left_out: tuple[str, ...]

    @property
    def has_errors(self) -> bool:
        """Whether a finding is an error."""
        return any(finding.severity == "error" for finding in self.findings)

    def record(self) -> DiagnosisRecord:
        """Return the diagnosis as a record for JSON."""
        takes = self.estimate
        return DiagnosisRecord(
            findings=[*self.findings],
            minutes=takes.minutes if takes else None,
            peak_memory_bytes=takes.peak_memory_bytes if takes else None,
            device=takes.device if takes else None,
            left_out=[*self.left_out],
        )


def diagnose(
    config: Config,
    *,
    deep: bool = False,
    runs: Path = Path("runs"),
    say: Callable[[str], None] = lambda _: None,
) -> Diagnosis:
    """Check a configuration without downloading data or creating a run's folder.

    Args:
        config: The configuration.
        deep: Whether to run also the checks that train briefly or evaluate the teacher.
        runs: Folder of all runs, which is searched for the teacher.
        say: Called with a line of text before slow work.

    Raises:
        ConfigError: The run could not start.
    """
    case = planned(config)
    findings = run_checks("static", case)
    ready, data_at_hand, left_out = without_what_is_missing(config, runs)
    if not deep:
        left_out.append("short training and teacher checks (use --deep)")
    # Compiling would take longer than these few steps.
    with out_of_memory_explained(ready), torch.compiler.set_stance("force_eager"):
        # With model.init, no published weights are read.
        initial = bool(ready.model.init) or has_weights(ready.model.backbone)
        job = prepare(ready, initial=initial, runs=runs)
        if data_at_hand:
            case = replace(case, num_pictures=len(job.splits.train), num_classes=len(job.splits.classes))
        probe = Probe(case, job, data_at_hand)
        findings += run_checks("batch", probe)
        if deep:
            say("training on a few pictures, and checking the teacher if there is one")
            findings += run_checks("deep", probe)
        # After an error, e.g. a loss that is not finite, timing is pointless.
        takes = None if any(found.severity == "error" for found in findings) else estimate_cost(probe)
    return Diagnosis(tuple(by_severity(findings)), takes, tuple(left_out))


def without_what_is_missing(config: Config, runs: Path) -> tuple[Config, bool, list[str]]:
    """Make a configuration runnable without downloads.

    Missing data are replaced by synthetic pictures. Missing teachers are left out with the losses that need
    them. Missing pretrained weights are only reported, since the model then gets random ones. The teacher's
    cache is turned off.

    Args:
        config: The configuration.
        runs: Folder of all runs, which is searched for the teacher.

    Returns:
        The changed configuration, whether the data are on this machine, and a line for each missing item.

    Raises:
        ConfigError: `data.root` does not hold the data set.
    """
    plain, left_out = config.dump(), []
    data, data_at_hand = config.data, True
    archive = _ARCHIVES.get(data.dataset.name)
    if archive is not None and not is_at_hand(archive, data.root):
        data_at_hand = False
        left_out.append(
            f"the data ({data.dataset.name} is not on this machine): synthetic pictures are used instead"
        )
        own = {"dataset": {"name": "synthetic", "train": _DRAWN, "test": 100}, "root": None, "limit": None}
        # The size of the stored pictures, not of the model's input: drawing at 224 px would take minutes.
        size = data.store_size or 32
        kept = {"classes": planned(config).num_classes, "store_size": size, "skip_broken": False}
        val = 0.1 if data.val else 0
        plain["data"] |= {**own, **kept, "val": val}
    if not has_weights(config.model.backbone) and not config.model.init:
        name = config.model.backbone.name
        left_out.append(f"the weights of {name} (not on this machine): random weights are used instead")
    if config.teacher_outputs and config.teacher:
        try:
            for name in config.teacher.run:
                find_teacher(name, config.teacher.seed, runs)
        except ConfigError as error:
            left_out.append(f"the teacher and the losses that need it ({error.message})")
            untaught = {
                label: plain["objective"][label]
                for label, spec in config.objective.items()
                if not spec.part.traits.needs_teacher
            }
            plain["objective"] = untaught or {"cross_entropy": {"name": "cross_entropy"}}
            plain["teacher"] = None
    if plain["teacher"]:
        # Computing all its answers would take as long as the run's first epoch.
        plain["teacher"]["cache"] = False
    return build_config(plain), data_at_hand, left_out
