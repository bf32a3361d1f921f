"""What is measured of a teacher before training, and what is said of one that says nothing."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from cifarlab.engine.scoring import score_split
from cifarlab.runs.model import load_trained
from cifarlab.teachers import examine, has_same_pictures, knows_validation, teacher_warnings
from cifarlab.teachers.diagnosis import gradient_norms
from cifarlab.training.setup import prepare
from tests.data.test_cifar import write_cifar100
from tests.settings import row
from tests.teachers.taught import DISTILL, answers, student
from tests.tiny import tiny_config, train_tiny


def test_health_is_what_it_says(runs):
    job = prepare(student(runs, "data.augment=null", "objective.distill.temperature=2", run="margin"))
    health = examine(job.teacher, job.engine, job.splits)
    model, val = load_trained(runs / "margin" / "0").model, job.splits.val
    scores = score_split(model, val, job.engine.precision, 32)
    assert health.teacher_top1 == pytest.approx(scores["top1"])
    assert health.pictures == 100
    (temperature,) = health.temperatures
    train = job.splits.train
    images, labels, _ = train.gather(torch.arange(len(train)))
    logits = (model(images).logits.detach() / temperature / 2).double()
    entropy = torch.distributions.Categorical(logits=logits).entropy().mean().item()
    term = health.terms["distill"]
    assert term.entropy == pytest.approx(entropy, rel=1e-3)
    assert term.kl_from_uniform == pytest.approx(np.log(100) - entropy, rel=1e-3)
    assert health.agreement == pytest.approx((logits.argmax(-1) == labels).double().mean().item())
    norms = gradient_norms(job.teacher, job.engine)
    assert term.gradient_ratio == pytest.approx(norms["distill"] / norms["cross_entropy"])


def test_the_norm_of_a_gradient_is_torchs(runs):
    job = prepare(student(runs, "model.backbone={name: tiny, dropout: 0.0}", "data.augment=null"))
    engine = job.engine
    norms = gradient_norms(job.teacher, engine)
    batch, said = answers(engine, count=32)
    losses = engine.objective(replace(batch, teacher=said), engine.model.train()(batch.images))
    (0.9 * losses["distill"]).backward()
    total = torch.nn.utils.get_total_norm([p.grad for p in engine.model.parameters()])
    assert norms["distill"] == pytest.approx(total.item(), rel=1e-4)


def test_a_teacher_of_another_split_is_scored_on_its_own_validation_pictures(runs):
    own = prepare(student(runs, run="margin"))
    other = prepare(student(runs, "train.seed=1", run="margin"))
    assert not any("validation pictures of this run" in note for note in own.remarks.notes)
    assert any("validation pictures of this run" in note for note in other.remarks.notes)
    shared = prepare(student(runs, "train.seed=1", "data.split_seed=0", run="margin"))
    assert not any("validation pictures of this run" in note for note in shared.remarks.notes)
    health = [examine(job.teacher, job.engine, job.splits) for job in (own, other)]
    assert [h.measured_on for h in health] == ["val", "the teacher's val"]
    everything = prepare(student(runs, "data.val=0", "train.select=last", run="margin"))
    assert (
        examine(everything.teacher, everything.engine, everything.splits).measured_on == "the teacher's val"
    )
    assert health[0].teacher_top1 == health[1].teacher_top1
    assert health[0].temperatures == health[1].temperatures


def test_a_teacher_that_held_nothing_out_after_rounding_is_scored_on_train(runs, tmp_path):
    train_tiny(tmp_path / "all" / "0", "data.val=0.001", "train.select=last", "train.epochs=1")
    for overrides, message in (
        ([], "calibrated and scored on its training pictures"),
        (["teacher.calibrate=false"], "it was scored on its training pictures"),
    ):
        job = prepare(student(tmp_path, *overrides, run="all"))
        assert any("validation pictures" in note for note in job.remarks.notes)
        report = examine(job.teacher, job.engine, job.splits)
        assert report.measured_on == "train"
        assert any(message in line for line in teacher_warnings(report, job.engine.config))


def test_a_teacher_of_other_pictures_is_named(runs):
    job = prepare(student(runs, "data.dataset={train: 310}", run="margin"))
    assert any("another data set" in note for note in job.remarks.notes)
    assert examine(job.teacher, job.engine, job.splits).measured_on == "val"


def test_the_same_pictures_kept_at_another_size_and_place_are_split_alike(tmp_path):
    """CIFAR's go by what was published."""
    few = ("data.val=40", "train.epochs=1", "data.batch_size=32", "data.image_size=32")
    for place in ("teachers", "students"):
        write_cifar100(tmp_path / place)
    teacher, _ = train_tiny(tmp_path / "runs" / "teacher" / "0", *few, "data.dataset=cifar100",
                            f"data.root={tmp_path / 'teachers'}")  # fmt: skip
    job = prepare(tiny_config(
        *DISTILL, *few, f"teacher.run={teacher.folder}", "data.dataset=cifar100",
        f"data.root={tmp_path / 'students'}", "data.store_size=40",
    ))  # fmt: skip
    assert job.splits.train.images.shape[-1] == 40
    assert not any(
        "another data set" in note or "validation pictures of this run" in note for note in job.remarks.notes
    )
    (member,) = job.teacher.members
    assert has_same_pictures(member, job.engine.config, job.splits)
    assert not knows_validation(member, job.engine.config, job.splits)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["objective.rkd={}", "model.freeze=backbone", "model.head=linear"], "rkd has no gradient"),
        (["objective.distill.weight=1e-6"], "distill hardly counts"),
        (["objective.distill.temperature=1000"], "distill has almost no effect"),
        (
            ["objective={rkd: {before: distill}}", "objective.distill.temperature=1000"],
            "distill has almost no effect",
        ),
        (["objective.distill.temperature=0.001"], "almost one-hot"),
    ],
)
def test_what_says_next_to_nothing_is_said(runs, overrides, message):
    job = prepare(student(runs, *overrides))
    found = teacher_warnings(examine(job.teacher, job.engine, job.splits), job.engine.config)
    assert any(message in line for line in found), found


def test_examining_a_teacher_leaves_the_student_as_it_was(runs):
    job = prepare(student(runs))
    before = {name: value.clone() for name, value in job.engine.model.state_dict().items()}
    examine(job.teacher, job.engine, job.splits)
    assert all(torch.equal(value, before[name]) for name, value in job.engine.model.state_dict().items())
    assert all(parameter.grad is None for parameter in job.engine.model.parameters())


def test_the_tutorials_settings_are_called_nearly_empty(runs, tmp_path):
    """Cosines x 8 over a temperature of 4, not calibrated: as published."""
    told = row("as_run/resnet18_pretrained_arcface_kd")
    assert not told.teacher.calibrate
    assert told.objective["distill"].kwargs() == {"temperature": 4.0}
    assert told.model.head.kwargs()["scale"] == 8
    # A head as wide as the tutorial's: in a few dimensions 100 directions cannot all be far apart.
    head = ("model.head={name: margin, dim: 512, scale: 8}", "model.backbone={name: tiny, width: 64}")
    arcface = ("objective={cross_entropy: null, arcface: {margin: 0.35, gradient: straight_through}}",)
    teacher = tmp_path / "teacher" / "0"
    train_tiny(teacher, *head, *arcface, "train.epochs=12", "optim.lr=1e-2", "train.precision=float32")
    distill = "objective={arcface: {weight: 0.3}, distill: {weight: 0.7, temperature: 4}}"
    overrides = (*head, *arcface, distill, f"teacher.run={teacher}")
    _, summary = train_tiny(tmp_path / "run" / "0", *overrides, "teacher.calibrate=false", "train.epochs=1")
    assert 0.01 < summary.distillation.terms["distill"].kl_from_uniform < 0.18
    assert summary.distillation.teacher_top1 > 0.05
    (warning,) = [line for line in summary.warnings if "almost no effect" in line]
    assert "set teacher.calibrate=true" in warning
    # This teacher knows little: calibrated, its answers at the same temperature still say so, with the other
    # fix.
    _, calibrated = train_tiny(tmp_path / "calibrated" / "0", *overrides, "train.epochs=1")
    assert "lower objective.distill.temperature" in " ".join(calibrated.warnings)
    colder = (*overrides, "objective.distill.temperature=1", "train.epochs=1")
    _, corrected = train_tiny(tmp_path / "corrected" / "0", *colder)
    assert not any("almost no effect" in line for line in corrected.warnings)
