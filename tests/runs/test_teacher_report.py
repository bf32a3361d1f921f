"""What is known of a teacher, in files and checkpoints."""

import json
import math

import pytest
from pydantic import ValidationError

from cifarlab.core.errors import ConfigError
from cifarlab.core.files import write_json
from cifarlab.runs.summary import Summary
from cifarlab.runs.teacher_report import TaughtTerm, TeacherFile, TeacherReport, TemperedTerm
from cifarlab.training.state import LoopState
from tests.tiny import summary_values

pytestmark = pytest.mark.quick

REPORT = TeacherReport(
    teachers=[TeacherFile(path="runs/a/0/best.pt", sha256="ab")],
    temperatures=[2.5],
    measured_on="val",
    pictures=100,
    teacher_top1=0.5,
    agreement=0.75,
    log_classes=4.5,
    terms={
        "rkd": TaughtTerm(gradient_norm=1.0, gradient_ratio=None),
        "distill": TemperedTerm(
            gradient_norm=1.0, gradient_ratio=0.5, temperature=4.0, entropy=3.0, kl_from_uniform=1.5
        ),
    },
    cache_seconds=0.0,
)
KEYS = ["teachers", "temperatures", "measured_on", "pictures", "teacher_top1", "agreement", "log_classes",
        "terms", "cache_seconds"]  # fmt: skip


def test_a_summary_holds_it(tmp_path):
    path = tmp_path / "summary.json"
    write_json(path, Summary(**summary_values(distillation=REPORT)).to_json())
    plain = json.loads(path.read_text())["distillation"]
    assert [*plain] == KEYS
    assert [*plain["terms"]["rkd"]] == ["gradient_norm", "gradient_ratio"]
    assert [*plain["terms"]["distill"]] == [
        "gradient_norm", "gradient_ratio", "temperature", "entropy", "kl_from_uniform"
    ]  # fmt: skip
    found = Summary.read(path).distillation
    assert found == REPORT
    assert {label: type(term) for label, term in found.terms.items()} == {
        "rkd": TaughtTerm, "distill": TemperedTerm
    }  # fmt: skip


def test_what_was_not_finite_is_null_in_a_file(tmp_path):
    term = TaughtTerm(gradient_norm=math.inf, gradient_ratio=math.nan)
    path = tmp_path / "summary.json"
    health = REPORT.changed(terms={"rkd": term})
    write_json(path, Summary(**summary_values(distillation=health)).to_json())
    found = Summary.read(path).distillation
    assert math.isnan(found.terms["rkd"].gradient_norm)
    assert found.terms["rkd"].gradient_ratio is None


def test_a_damaged_one_is_named(tmp_path):
    path = tmp_path / "summary.json"
    plain = REPORT.to_json()
    del plain["agreement"]
    write_json(path, summary_values(distillation=plain))
    with pytest.raises(ConfigError, match=r"distillation\.agreement: field required"):
        Summary.read(path)
    with pytest.raises(ValidationError):
        LoopState.from_plain({"distillation": plain})


def test_a_checkpoint_holds_plain_containers():
    state = LoopState(step=3, distillation=REPORT)
    plain = state.to_plain()
    assert type(plain["distillation"]) is dict
    assert type(plain["distillation"]["terms"]["distill"]) is dict
    assert LoopState.from_plain({**plain, "engine": {}}) == state
    assert LoopState.from_plain({"step": 1}) == LoopState(step=1), "as the first runs saved it"
