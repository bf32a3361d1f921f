"""What the doctor finds in teachers, each by its own finding."""

import pytest

from cifarlab.core.errors import ConfigError
from cifarlab.doctor import CHECKS, diagnosis
from cifarlab.doctor.check_registry import run_checks
from cifarlab.doctor.plan_facts import planned
from cifarlab.doctor.probe import Probe
from cifarlab.training.setup import prepare
from tests.teachers.taught import student
from tests.tiny import train_tiny

FAULTS = [
    ("teacher_says_little", ["objective.distill.temperature=1000"]),
    ("teacher_near_one_hot", ["objective.distill={temperature: 0.001, weight: 1e6}"]),
    ("teacher_hardly_counts", ["objective.distill.weight=1e-6"]),
    ("teacher_hardly_counts", ["objective.rkd={}", "model.freeze=backbone"]),
]
# At which answers of a teacher as small as this are neither uniform nor sure.
READABLE = "objective.distill.temperature=0.15"


@pytest.mark.parametrize(("expected", "overrides"), FAULTS)
def test_what_ails_a_teacher_is_found(runs, monkeypatch, expected, overrides):
    monkeypatch.delitem(CHECKS, "cannot_overfit")
    config = student(runs, READABLE, *overrides)
    found = run_checks("deep", Probe(planned(config), prepare(config), True))
    assert {finding.id for finding in found} == {expected}, found


def test_a_teacher_that_held_nothing_out_is_found(tmp_path, monkeypatch):
    monkeypatch.delitem(CHECKS, "cannot_overfit")
    better = ("train.epochs=6", "optim.lr=1e-2", "train.precision=float32")
    train_tiny(tmp_path / "all" / "0", *better, "data.val=0", "train.select=last")
    config = student(tmp_path, READABLE, "teacher.calibrate=false", run="all")
    found = run_checks("deep", Probe(planned(config), prepare(config), True))
    assert {finding.id for finding in found} == {"teacher_not_held_out"}, found


def test_a_teacher_that_knows_nothing_is_found(runs, monkeypatch):
    monkeypatch.delitem(CHECKS, "cannot_overfit")
    config = student(runs, READABLE)
    probe = Probe(planned(config), prepare(config), True)
    sound = probe.health
    assert sound is not None
    assert run_checks("deep", probe) == []
    probe.health = sound.changed(teacher_top1=0.01, temperatures=[20.0])
    ids = [finding.id for finding in run_checks("deep", probe)]
    assert ids == ["teacher_guesses", "teacher_not_calibrated"]


def test_a_teacher_that_is_there_is_asked(runs):
    config = student(runs)
    ready, _, left_out = diagnosis.without_what_is_missing(config, runs)
    assert ready.teacher_outputs
    assert not ready.teacher.cache
    assert not left_out
    job = prepare(ready)
    found = run_checks("batch", Probe(planned(config), job, True))
    assert found == []


def test_without_it_the_rest_of_the_losses_is_looked_at(runs, tmp_path):
    config = student(runs, "teacher.run=nobody", "objective.cross_entropy.smoothing=0.1")
    with pytest.raises(ConfigError):
        prepare(config)
    ready, _, left_out = diagnosis.without_what_is_missing(config, tmp_path)
    assert list(ready.objective) == ["cross_entropy"]
    assert len(left_out) == 1
    assert ready.objective["cross_entropy"].kwargs() == {"smoothing": 0.1}
