"""`diagnose`: all that the checks find in a recipe, and what it will take."""

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
# In place of data that are not at hand: as many as two compared views and a GPU's batch need.
_DRAWN = 1000


class DiagnosisRecord(Record):
    """What `cifarlab check --json` prints; no minutes, memory and device where no steps could be timed."""

    findings: list[Finding]
    minutes: float | None
    peak_memory_bytes: int | None
    device: str | None
    left_out: list[str]


@dataclass(frozen=True)
class Diagnosis:
    """findings: errors first. left_out: a line for each thing that could not be looked at."""

    findings: tuple[Finding, ...]
    estimate: CostEstimate | None
    left_out: tuple[str, ...]

    @property
    def has_errors(self) -> bool:
        return any(finding.severity == "error" for finding in self.findings)

    def record(self) -> DiagnosisRecord:
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
    say: Callable[[str], None] = lambda line: None,
) -> Diagnosis:
    """Look at a configuration; fetches nothing and writes no run.

    deep: train a little and ask the teacher, too. runs: where a teacher's run is looked for. say: called with
    a line before what takes long. Raises ConfigError where the run could not begin.
    """
    case = planned(config)
    findings = run_checks("static", case)
    ready, data_at_hand, left_out = without_what_is_missing(config, runs)
    if not deep:
        left_out.append("a short training and the teacher's answers: --deep looks at them")
    # A few steps are not worth what a compiler takes.
    with out_of_memory_explained(ready), torch.compiler.set_stance("force_eager"):
        # Beside model.init no published weights are read.
        initial = bool(ready.model.init) or has_weights(ready.model.backbone)
        job = prepare(ready, initial=initial, runs=runs)
        if data_at_hand:
            case = replace(case, num_pictures=len(job.splits.train), num_classes=len(job.splits.classes))
        probe = Probe(case, job, data_at_hand)
        findings += run_checks("batch", probe)
        if deep:
            say("training on a few pictures, asking the teacher if there is one")
            findings += run_checks("deep", probe)
        # A model whose loss is no number has no pace either.
        takes = None if any(found.severity == "error" for found in findings) else estimate_cost(probe)
    return Diagnosis(tuple(by_severity(findings)), takes, tuple(left_out))


def without_what_is_missing(config: Config, runs: Path) -> tuple[Config, bool, list[str]]:
    """The configuration with what is not on this machine left out; whether data are; a line for each."""
    plain, left_out = config.dump(), []
    data, data_at_hand = config.data, True
    archive = _ARCHIVES.get(data.dataset.name)
    is_folder_missing = data.dataset.name == "folder" and data.root is None
    if is_folder_missing or (archive is not None and not is_at_hand(archive, data.root)):
        data_at_hand = False
        left_out.append(f"the data ({data.dataset.name} is not on this machine): drawn pictures stand in")
        own = {"dataset": {"name": "synthetic", "train": _DRAWN, "test": 100}, "root": None, "limit": None}
        # As few pixels as the data have: 224 px a side would take minutes to draw.
        size = data.store_size or 32
        kept = {"classes": planned(config).num_classes, "store_size": size, "skip_broken": False}
        val = 0.1 if data.val else 0
        plain["data"] |= {**own, **kept, "val": val}
    if not has_weights(config.model.backbone) and not config.model.init:
        name = config.model.backbone.name
        left_out.append(f"the weights of {name} (not on this machine): random ones stand in")
    if config.teacher_outputs and config.teacher:
        try:
            for name in config.teacher.run:
                find_teacher(name, config.teacher.seed, runs)
        except ConfigError as error:
            left_out.append(f"the teacher and the losses that read it ({error.message})")
            untaught = {
                label: plain["objective"][label]
                for label, spec in config.objective.items()
                if not spec.part.traits.needs_teacher
            }
            plain["objective"] = untaught or {"cross_entropy": {"name": "cross_entropy"}}
            plain["teacher"] = None
    if plain["teacher"]:
        # Keeping all its answers would take as long as the run's first epoch.
        plain["teacher"]["cache"] = False
    return build_config(plain), data_at_hand, left_out
