"""`profile`: which parts a step has, what it computes, what the trace holds; never how long it took."""

import json

import pytest
import torch

from cifarlab.training.profile import MATRIX_SIDE, STEP_PARTS, Stopwatch, count_flops, profile
from cifarlab.training.setup import prepare
from tests.tiny import TINY, tiny_config, train_tiny


@pytest.fixture(autouse=True)
def _small_matrices(monkeypatch):
    """The floor is measured in a moment, for what it comes to is asserted nowhere."""
    monkeypatch.setitem(MATRIX_SIDE, "cpu", 256)


def test_the_parts_of_a_step_are_those_that_the_recipe_has():
    plain = profile(tiny_config("train.grad_clip=null"), steps=1)
    assert [*plain.parts] == ["batch", "forward", "loss", "sums", "backward", "optimizer", "other"]
    more = profile(tiny_config("train.grad_clip=5", "train.average=ema"), steps=1)
    assert [*more.parts] == [*(part for part in STEP_PARTS if part != "teacher"), "other"]
    assert all(seconds > 0 for part, seconds in more.parts.items() if part != "other")


def test_a_teacher_is_a_part(tmp_path):
    teacher, _ = train_tiny(tmp_path / "teacher" / "0", "train.epochs=1")
    config = tiny_config(f"teacher={{run: {teacher.folder}, cache: false}}", "objective.distill={}")
    assert "teacher" in profile(config, steps=1).parts


def test_figures_follow_from_one_another():
    found = profile(tiny_config("train.epochs=7"), steps=2)
    assert found.pictures == 32
    assert found.steps == 2
    assert found.epochs == 7
    assert found.images_per_second == pytest.approx(32 / found.step)
    # 200 pictures of 300: 100 validate.
    assert found.epoch.training == pytest.approx(200 / 32 * found.step)
    assert found.run == pytest.approx(7 * sum(found.epoch.to_json().values()))
    assert found.floor == pytest.approx(found.flops / found.peak_flops_per_second)
    assert found.epoch.evaluation > 0
    assert found.epoch.checkpoint > 0
    assert found.writing > 0


def test_the_arithmetic_of_a_step_is_three_times_that_of_its_forward():
    """But for the first layer, which passes no gradient on; and all of it again where a step goes uphill."""
    job = prepare(tiny_config())
    flops = count_flops(job.engine)
    assert 2 * 2 * job.macs * 32 < flops <= 3 * 2 * job.macs * 32
    uphill = prepare(tiny_config("optim.sharpness=sam"))
    assert count_flops(uphill.engine) == 2 * flops


def test_a_step_that_is_timed_is_the_same_step():
    engines = [prepare(tiny_config("train.grad_clip=1")).engine for _ in range(2)]
    engines[1].span = Stopwatch(torch.device("cpu"))
    for engine in engines:
        engine.model.train()
        engine.step(engine.order(0), 0, 0)
    one, other = (engine.model.state_dict() for engine in engines)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_trace_shows_steps_and_their_parts(tmp_path, cifarlab):
    path = tmp_path / "new" / "trace.json"
    status, out, err = cifarlab("profile", "demo", *TINY, "--steps", 1, "--trace", path)
    assert status == 0, err
    assert out.splitlines()[-1] == str(path)
    assert "img/s" in out
    assert "backward" in out
    names = [event["name"] for event in json.loads(path.read_text())["traceEvents"] if event["ph"] == "X"]
    assert names.count("step") == names.count("forward") == names.count("optimizer") == 3
    assert "aten::convolution" in names


def test_the_command_prints_json_and_leaves_no_run(tmp_path, cifarlab, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, out, err = cifarlab("profile", "demo", *TINY, "--steps", 1, "--json")
    assert status == 0, err
    found = json.loads(out)
    assert [*found] == [
        "hardware", "precision", "pictures", "steps", "step", "parts", "images_per_second", "flops",
        "peak_flops_per_second", "floor", "epoch", "writing", "epochs", "run",
    ]  # fmt: skip
    assert [*found["epoch"]] == ["training", "evaluation", "checkpoint"]
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["demo", "--trace", "trace.txt"], "suffix .json"),
        (["demoo"], "did you mean demo?"),
        (["demo", "optim.lrr=1"], "optim.lrr"),
    ],
)
def test_a_mistake_is_one_line(cifarlab, arguments, message):
    status, _, err = cifarlab("profile", *arguments)
    assert status == 2
    assert message in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("backbone", ["resnext26ts", "tf_efficientnet_lite0"])
def test_grouped_convolutions_are_counted_by_what_they_compute(backbone):
    """torch counts the gradients of a grouped convolution as those of a whole one: 17 times too many."""
    job = prepare(tiny_config(f"model.backbone={backbone}", "data.image_size=64", "train.precision=float32"))
    assert 2 * 2 * job.macs * 32 < count_flops(job.engine) <= 3 * 2 * job.macs * 32


def test_kept_activations_are_not_counted(tmp_path, monkeypatch):
    """A step of a linear probe is that of its head; the frozen part is computed before."""
    monkeypatch.setenv("CIFARLAB_CACHE", str(tmp_path / "cache"))
    probe = ("model.freeze=backbone", "data.augment={crop: null, flip: null}", "train.precision=float32")
    found = profile(tiny_config(*probe), steps=1)
    # 16 features to 100 classes, forward, and back to the weights.
    assert found.flops == 2 * 2 * 16 * 100 * 32
