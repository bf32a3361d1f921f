"""A teacher, from its run to the student's summary: what it says, what of it is kept, what is refused."""

import json
import os
import re
import shutil
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from cifarlab import checkpoint, cli
from cifarlab.data.places import Stopped, locked
from cifarlab.evaluate import evaluate
from cifarlab.prepare import prepare
from cifarlab.progress import TrainingProgress
from cifarlab.recipes import read, resolve
from cifarlab.registry import ConfigError
from cifarlab.run import Interrupted, Run
from cifarlab.teachers import Teacher, complaints, examine, find_teacher, missing_teachers
from cifarlab.teachers.cache import _checksum, _digest
from cifarlab.teachers.health import gradient_norms
from cifarlab.teachers.teacher import calibration
from cifarlab.train import train
from cifarlab.trained import load_trained
from cifarlab.views import dress, view_epoch
from tests.tiny import TINY, logged, tiny_config, train_tiny

MARGIN = (
    "model.head={name: margin, dim: 16, scale: 64}",
    "objective={cross_entropy: null, arcface: {margin: 0.2}}",
)
KEPT = ("teacher.run=linear", "teacher.views=2")
DISTILL = ("objective={distill: {weight: 0.9}}", "train.precision=float32")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder of runs: a linear teacher at 48 px, one with a margin head, and one that is not finished."""
    folder = tmp_path_factory.mktemp("runs")
    better = ("train.epochs=6", "optim.lr=1e-2", "train.precision=float32")
    train_tiny(folder / "linear" / "0", *better, "data.image_size=48", "model.normalize=dataset")
    train_tiny(folder / "margin" / "0", *better, *MARGIN)
    train_tiny(folder / "unfinished" / "0", "train.epochs=1")
    (folder / "unfinished" / "0" / "summary.json").unlink()
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("CIFARLAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "teachers"


def student(runs, *overrides, run="linear"):
    return tiny_config(*DISTILL, f"teacher.run={runs / run / '0'}", *overrides)


def answers(engine, epoch=0, count=64):
    """(batch, what the teacher says of it) for the first pictures of an epoch."""
    engine.begin(epoch)
    positions = engine.order(epoch)[:count]
    config = engine.config
    batch = dress(engine.train, positions, config.data, config.train.seed, view_epoch(config, epoch), 100)
    return batch, engine.teacher.answer(batch, positions)


def test_a_teacher_sees_the_students_view_at_its_own_size_and_normalisation(runs):
    job = prepare(student(runs, "data.augment={flip: {p: 0.5}, crop: {}}"))
    batch, said = answers(job.engine, epoch=3)
    alone = load_trained(runs / "linear" / "0").model
    assert alone.image_size == 48
    assert not torch.equal(alone.mean, job.engine.model.mean)
    torch.testing.assert_close(said.logits, alone(batch.images).logits.detach(), atol=1e-4, rtol=1e-4)
    clean = dress(
        job.engine.train, job.engine.order(3)[:64], tiny_config("data.augment=null").data, 0, 3, 100
    )
    assert not torch.equal(clean.images, batch.images)


def test_a_teacher_stays_in_evaluation_mode_and_out_of_the_students_state(runs):
    job = prepare(student(runs))
    engine, teacher = job.engine, job.teacher.members[0].trained.model
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    engine.model.train()
    for step in range(3):
        engine.step(engine.plan.positions(engine.order(0), step), 0, step)
    assert not any(part.training for part in teacher.modules())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    optimized = {id(p) for group in engine.optimizer.param_groups for p in group["params"]}
    assert not optimized & {id(parameter) for parameter in teacher.parameters()}
    theirs = {value.data_ptr() for value in teacher.state_dict().values()}
    assert not theirs & {value.data_ptr() for value in engine.state_dict()["model"].values()}


def test_the_same_losses_with_and_without_the_cache(runs, tmp_path):
    overrides = ("data.augment={flip: {p: 0.5}}", "teacher.views=2", "train.epochs=4")
    rows = {}
    for name, cached in (("kept", "true"), ("live", "false")):
        config = student(runs, *overrides, f"teacher.cache={cached}")
        run = Run(tmp_path / name / "0")
        train(config, run)
        rows[name] = logged(run)
    for kept, live in zip(rows["kept"], rows["live"], strict=True):
        assert kept["train/loss/distill"] == pytest.approx(live["train/loss/distill"], rel=2e-3)
        assert kept["train/loss/total"] == pytest.approx(live["train/loss/total"], rel=2e-3)


@pytest.mark.parametrize("run", ["linear", "margin"])
def test_a_replayed_answer_is_the_live_one_to_float16(runs, run):
    options = ("data.augment={crop: {}}", "teacher.views=3", "objective={rkd: {}}")
    kept = prepare(student(runs, *options, run=run)).engine
    live = prepare(student(runs, *options, "teacher.cache=false", run=run)).engine
    for epoch in (0, 2, 4):
        (batch, said), (again, truth) = answers(kept, epoch), answers(live, epoch)
        assert torch.equal(batch.images, again.images)
        torch.testing.assert_close(said.logits, truth.logits, atol=5e-3, rtol=2e-3)
        torch.testing.assert_close(said.embedding, truth.embedding, atol=5e-3, rtol=2e-3)
        assert (said.cosines is None) == (truth.cosines is None) == (run == "linear")
        if truth.cosines is not None:
            torch.testing.assert_close(said.cosines, truth.cosines, atol=1e-3, rtol=2e-3)
            assert said.scale == truth.scale


def test_views_come_back_for_the_student_too_cached_or_not(runs):
    for cached in ("true", "false"):
        options = ("data.augment={crop: {}, flip: {p: 0.5}}", "teacher.views=2", f"teacher.cache={cached}")
        engine = prepare(student(runs, *options)).engine
        data, rows = engine.config.data, torch.arange(50)
        views = [
            dress(engine.train, rows, data, 0, view_epoch(engine.config, e), 100).images for e in range(4)
        ]
        assert torch.equal(views[0], views[2])
        assert torch.equal(views[1], views[3])
        assert not torch.equal(views[0], views[1])


def files(cache):
    return {path: path.stat().st_mtime_ns for path in cache.rglob("logits.npy")}


def test_a_cache_is_found_again_and_one_of_anything_else_is_not(runs, cache):
    def fill(*overrides, run="linear"):
        engine = prepare(
            student(runs, "data.augment={crop: {}}", "teacher.views=2", *overrides, run=run)
        ).engine
        return engine.begin(0) or ""

    assert "answers for view 1 of 2" in fill()
    assert not fill()
    assert not fill("optim.lr=0.5", "objective.distill.temperature=2")
    others = [
        ("train.seed=1",), ("data.val=50",), ("data.limit=150",), ("data.augment.crop.padding=2",),
        ("data.augment.flip={p: 0.25}",), ("teacher.image_size=64",), ("teacher.precision=bfloat16",),
        ("teacher.views=3",), ("data.store_size=40",), ("data.dataset={train: 310}",), ("objective.rkd={}",),
    ]  # fmt: skip
    for count, other in enumerate(others, start=2):
        assert "made anew" not in fill(*other), other
        assert len(list(cache.iterdir())) == count, other
    assert fill(run="margin")


FAULTS = (
    "cut off", "empty", "a bit", "no key", "empty key", "another key", "another scale", "no scale", "a list",
    "no array", "other views",
)  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_cache_that_does_not_match_is_made_anew(runs, cache, fault):
    config = student(runs, "data.augment={crop: {}}", "teacher.views=1")
    engine = prepare(config).engine
    engine.begin(0)
    truth = answers(engine)[1].logits
    (folder,) = {path.parent for path in cache.rglob("logits.npy")}
    array, key = folder / "logits.npy", folder / "key.json"
    content = bytearray(array.read_bytes())
    if fault == "cut off":
        array.write_bytes(content[: len(content) // 2])
    elif fault == "a bit":
        content[len(content) // 2] ^= 1
        array.write_bytes(content)
    elif fault == "no key":
        key.unlink()
    elif fault == "empty":
        array.write_bytes(b"")
    elif fault == "empty key":
        key.write_text("")
    elif fault in ("another key", "another scale", "no scale", "a list"):
        record = json.loads(key.read_text())
        if fault == "another key":
            record["key"]["seed"] = 7
        elif fault == "another scale":
            record["scale"] = 3.0
        elif fault == "no scale":
            del record["scale"]
        else:
            record["checksums"] = list(record["checksums"])
        key.write_text(json.dumps(record))
    elif fault == "no array":
        array.unlink()
    else:  # an augmentation whose code has changed under the same name and options
        seen = np.load(folder / "witnesses.npy")[:, :, ::-1]
        np.save(folder / "witnesses.npy", seen)
        record = json.loads(key.read_text())
        record["checksums"]["witnesses"] = _checksum(seen)
        record.pop("seal")
        key.write_text(json.dumps({**record, "seal": _digest(record)}))
    again = prepare(config).engine
    assert "made anew" in (again.begin(0) or "")
    assert torch.equal(answers(again)[1].logits, truth)
    assert prepare(config).engine.begin(0) is None


def test_a_filling_that_is_stopped_leaves_nothing_and_the_run_goes_on(runs, cache, tmp_path, monkeypatch):
    """SIGTERM half-way through the second view: what was whole stays, and the run ends as if undisturbed."""
    config = student(runs, "data.augment={crop: {}}", "teacher.views=2", "train.epochs=2")
    monkeypatch.setattr("cifarlab.teachers.cache.PICTURES_PER_PASS", 50)
    whole, parts = Run(tmp_path / "whole" / "0"), Run(tmp_path / "parts" / "0")
    train(config, whole)
    shutil.rmtree(cache)
    ask, asked = Teacher.ask, []

    def interrupted(self, images):
        asked.append(len(images))
        if asked.count(50) == 6:  # 200 pictures a view: the second chunk of the second
            os.kill(os.getpid(), signal.SIGTERM)
        return ask(self, images)

    with monkeypatch.context() as patch, pytest.raises(Interrupted, match="the beginning of epoch 2"):
        patch.setattr(Teacher, "ask", interrupted)
        train(config, parts)
    assert [path.parent.name for path in cache.rglob("logits.npy")] == ["view_0"]
    assert not list(cache.rglob("*.tmp"))
    train(config, parts)
    assert logged(parts) == logged(whole)
    last = [checkpoint.load(run.last_path, ("engine",))["engine"]["model"] for run in (whole, parts)]
    assert all(torch.equal(last[0][name], last[1][name]) for name in last[0])


def test_a_stop_is_heard_while_another_process_fills(runs):
    engine = prepare(student(runs, "teacher.views=1")).engine
    with locked(engine.teacher.folder / "view_0"), pytest.raises(Stopped):
        engine.begin(0, stop=lambda: True)


def test_a_full_disk_ends_in_one_line(runs, cache, monkeypatch):
    engine = prepare(student(runs, "teacher.views=1")).engine

    def full(self, rows):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cifarlab.teachers.cache.Rows.write", full)
    with pytest.raises(ConfigError, match=r"No space left on device.*teacher\.cache=false"):
        engine.begin(0)
    assert not list(cache.rglob("*.npy"))


def test_a_cache_that_takes_no_data_is_known_before_the_run_begins(runs, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CIFARLAB_CACHE", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match="cannot keep the teacher's answers"):
        train(student(runs, "teacher.views=1"), Run(tmp_path / "run" / "0"))
    assert not (tmp_path / "run").exists()


def test_answers_that_float16_cannot_hold_are_refused(runs, monkeypatch):
    engine = prepare(student(runs, "teacher.views=1")).engine
    ask = Teacher.ask
    monkeypatch.setattr(
        Teacher,
        "ask",
        lambda self, images: replace(ask(self, images), logits=torch.full((len(images), 1, 100), 1e6)),
    )
    with pytest.raises(ConfigError, match=r"not finite in float16.*teacher\.cache=false"):
        engine.begin(0)


def test_the_order_and_the_code_of_augmentations_are_part_of_the_key(runs, tmp_path):
    def folder(*overrides):
        return prepare(student(runs, "teacher.views=1", *overrides)).engine.teacher.folder

    one = folder("data.augment={crop: null, flip: null}", "data.augment={a: {name: flip}, b: {name: crop}}")
    other = folder("data.augment={crop: null, flip: null}", "data.augment={b: {name: crop}, a: {name: flip}}")
    assert one != other
    part = tmp_path / "part.py"
    part.write_text(
        "from cifarlab import AUGMENTS\n@AUGMENTS.register\ndef same(images, draws):\n    return images\n"
    )
    imports = f"imports=[{part}]"
    before = folder(imports, "data.augment.same={p: 0.001}")
    part.write_text(part.read_text().replace("return images", "return images * 0"))
    assert folder(imports, "data.augment.same={p: 0.001}") != before


def test_random_numbers_of_its_own_make_an_augmentation_unfit_for_a_cache(runs, tmp_path):
    part = tmp_path / "noise.py"
    part.write_text(
        "import torch\nfrom cifarlab import AUGMENTS\n@AUGMENTS.register\n"
        "def noise(images, draws):\n    return torch.rand_like(images)\n"
    )
    engine = prepare(student(runs, "teacher.views=1", f"imports=[{part}]", "data.augment.noise={}")).engine
    with pytest.raises(ConfigError, match="does not take its random numbers from `draws`"):
        engine.begin(0)


def test_a_resumed_student_equals_an_uninterrupted_one(runs, tmp_path, monkeypatch):
    config = student(runs, "data.augment={crop: {}}", "teacher.views=2", "train.epochs=3")
    whole = Run(tmp_path / "whole" / "0")
    train(config, whole)

    class StopAfterAnEpoch(TrainingProgress):
        def epoch(self, row, best):
            if row["epoch"] == 1:
                os.kill(os.getpid(), signal.SIGTERM)

    parts = Run(tmp_path / "parts" / "0")
    with pytest.raises(Interrupted):
        train(config, parts, StopAfterAnEpoch(quiet=True))
    # What the first sitting found of the teacher stands: the second does not ask again.
    monkeypatch.setattr("cifarlab.train.examine", None)
    summary = train(config, parts)
    assert logged(parts) == logged(whole)
    last = [checkpoint.load(run.last_path, ("engine",))["engine"]["model"] for run in (whole, parts)]
    assert all(torch.equal(last[0][name], last[1][name]) for name in last[0])
    assert json.loads(whole.summary_path.read_text())["distillation"]["cache_seconds"] > 0
    assert summary["distillation"]["cache_seconds"] == 0


def test_a_run_does_not_go_on_with_another_teacher(runs, tmp_path):
    teacher = tmp_path / "teacher.pt"
    teacher.write_bytes((runs / "linear" / "0" / "best.pt").read_bytes())
    run, _ = train_tiny(tmp_path / "student" / "0", *DISTILL, f"teacher.run={teacher}")
    run.summary_path.unlink()
    teacher.write_bytes((runs / "margin" / "0" / "best.pt").read_bytes())
    with pytest.raises(ConfigError, match=r"teacher\.run: the teacher has changed"):
        train_tiny(tmp_path / "student" / "0", *DISTILL, f"teacher.run={teacher}")


def test_an_ensemble_answers_with_the_mean_of_calibrated_logits(runs):
    paths = [str(runs / name / "0") for name in ("linear", "margin")]
    job = prepare(tiny_config(*DISTILL, f"teacher.run={json.dumps(paths)}"))
    job.teacher.temperatures = [2.0, 8.0]
    batch, said = answers(job.engine)
    one, other = (load_trained(path).model(batch.images).logits.detach() for path in paths)
    torch.testing.assert_close(said.logits, (one / 2 + other / 8) / 2, atol=0.02, rtol=2e-3)
    assert said.cosines is None
    assert said.embedding.shape[1] == 0
    job = prepare(tiny_config("objective={rkd: {}}", f"teacher.run={json.dumps(paths)}"))
    assert answers(job.engine)[1].embedding.shape[1] == 16 + 16


def test_a_student_with_a_margin_head_learns_from_each_kind_of_teacher(runs, tmp_path):
    for name in ("linear", "margin"):
        _, summary = train_tiny(
            tmp_path / name / "0",
            *MARGIN,
            "objective.distill={weight: 0.5}",
            f"teacher.run={runs / name / '0'}",
        )
        assert summary["distillation"]["terms"]["distill"]["gradient_ratio"] > 0


@pytest.mark.parametrize("loss", ["distill", "dkd", "rkd"])
def test_each_loss_trains_end_to_end(runs, tmp_path, loss):
    overrides = (f"objective={{{loss}: {{weight: 0.1}}}}", f"teacher.run={runs / 'linear' / '0'}")
    _, summary = train_tiny(tmp_path / "run" / "0", *overrides)
    term = summary["distillation"]["terms"][loss]
    assert term["gradient_norm"] > 0
    assert ("entropy" in term) == (loss != "rkd")


def test_feature_maps_are_compared_end_to_end(tmp_path):
    short = ("data.limit=40", "data.val=20", "data.batch_size=10", "train.epochs=1")
    train_tiny(tmp_path / "teacher" / "0", *short, "model.backbone=resnet20", "data.image_size=40")
    hints = ("objective={fitnet: {weight: 100}}", f"teacher.run={tmp_path / 'teacher' / '0'}")
    run, summary = train_tiny(tmp_path / "student" / "0", *short, *hints, "model.backbone=resnet8x4")
    assert summary["distillation"]["terms"]["fitnet"]["gradient_norm"] > 0
    assert summary["parameters"] == 1_233_540
    saved = checkpoint.load(run.last_path, ("engine",))["engine"]["objective"]
    assert saved["loss_fitnet.regressor.0.weight"].shape == (32, 128, 1, 1)


@given(st.integers(0, 10_000), st.floats(0.3, 6), st.integers(2, 30))
@settings(max_examples=30, deadline=None)
def test_calibration_finds_scipys_minimum(seed, scale, classes):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(200, classes)) * scale
    labels = np.where(rng.random(200) < 0.5, logits.argmax(1), rng.integers(0, classes, 200))

    def loss(log_temperature):
        return -log_softmax(logits / np.exp(log_temperature), axis=1)[np.arange(200), labels].mean()

    best = minimize_scalar(loss, bounds=(np.log(0.05), np.log(20)), method="bounded", options={"xatol": 1e-6})
    found = calibration(torch.from_numpy(logits), torch.from_numpy(labels))
    assert loss(np.log(found)) <= best.fun + 1e-7


def test_health_is_what_it_says(runs):
    job = prepare(student(runs, "data.augment=null", "objective.distill.temperature=2", run="margin"))
    health = examine(job.teacher, job.engine, job.splits)
    model, val = load_trained(runs / "margin" / "0").model, job.splits.val
    scores = evaluate(model, val, job.engine.precision, 32)
    assert health["teacher_top1"] == pytest.approx(scores["top1"])
    assert health["pictures"] == 100
    (temperature,) = health["temperatures"]
    train = job.splits.train
    images, labels, _ = train.gather(torch.arange(len(train)))
    logits = (model(images).logits.detach() / temperature / 2).double()
    entropy = torch.distributions.Categorical(logits=logits).entropy().mean().item()
    term = health["terms"]["distill"]
    assert term["entropy"] == pytest.approx(entropy, rel=1e-3)
    assert term["kl_from_uniform"] == pytest.approx(np.log(100) - entropy, rel=1e-3)
    assert health["agreement"] == pytest.approx((logits.argmax(-1) == labels).double().mean().item())
    norms = gradient_norms(job.teacher, job.engine)
    assert term["gradient_ratio"] == pytest.approx(norms["distill"] / norms["cross_entropy"])


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
    assert not any("validate this run" in note for note in own.notes)
    assert any("validate this run" in note for note in other.notes)
    health = [examine(job.teacher, job.engine, job.splits) for job in (own, other)]
    assert [h["measured_on"] for h in health] == ["val", "the teacher's val"]
    assert health[0]["teacher_top1"] == health[1]["teacher_top1"]
    assert health[0]["temperatures"] == health[1]["temperatures"]


def test_a_teacher_of_other_pictures_is_named(runs):
    job = prepare(student(runs, "data.dataset={train: 310}", run="margin"))
    assert any("another data set" in note for note in job.notes)
    assert examine(job.teacher, job.engine, job.splits)["measured_on"] == "val"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["objective.rkd={}", "model.freeze=backbone", "model.head=linear"], "rkd moves no weight"),
        (["objective.distill.weight=1e-6"], "distill hardly counts"),
        (["objective.distill.temperature=1000"], "distill is nearly empty"),
        (
            ["objective={rkd: {before: distill}}", "objective.distill.temperature=1000"],
            "distill is nearly empty",
        ),
        (["objective.distill.temperature=0.001"], "nearly one-hot"),
        (["data.val=0", "train.select=last"], "calibrated and scored on what it was trained on"),
        (["data.val=0", "train.select=last", "teacher.calibrate=false"], "it was scored on what"),
    ],
)
def test_what_says_next_to_nothing_is_said(runs, overrides, message):
    job = prepare(student(runs, *overrides))
    found = complaints(examine(job.teacher, job.engine, job.splits), job.engine.config)
    assert any(message in line for line in found), found


def test_examining_a_teacher_leaves_the_student_as_it_was(runs):
    job = prepare(student(runs))
    before = {name: value.clone() for name, value in job.engine.model.state_dict().items()}
    examine(job.teacher, job.engine, job.splits)
    assert all(torch.equal(value, before[name]) for name, value in job.engine.model.state_dict().items())
    assert all(parameter.grad is None for parameter in job.engine.model.parameters())


def test_the_tutorials_settings_are_called_nearly_empty(runs, tmp_path):
    """Cosines x 8 over a temperature of 4, not calibrated: as published."""
    told = resolve(read("as_run/resnet18_pretrained_arcface_kd"))
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
    assert 0.01 < summary["distillation"]["terms"]["distill"]["kl_from_uniform"] < 0.18
    assert summary["distillation"]["teacher_top1"] > 0.05
    (warning,) = [line for line in summary["warnings"] if "nearly empty" in line]
    assert "say teacher.calibrate=true" in warning
    # This teacher knows little: calibrated, its answers at the same temperature still say so, with the other
    # fix.
    _, calibrated = train_tiny(tmp_path / "calibrated" / "0", *overrides, "train.epochs=1")
    assert "lower objective.distill.temperature" in " ".join(calibrated["warnings"])
    colder = (*overrides, "objective.distill.temperature=1", "train.epochs=1")
    _, mended = train_tiny(tmp_path / "mended" / "0", *colder)
    assert not any("nearly empty" in line for line in mended["warnings"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["teacher.run=nothing"], "no run 'nothing' with seed 0"),
        (["teacher.run=resnet18_baselin"], "did you mean resnet18_baseline"),
        (["teacher.run=resnet18_baseline"], "`cifarlab train resnet18_baseline --runs .*`, or add"),
        (["teacher.run=linear", "teacher.seed=4"], "no run 'linear' with seed 4 .*; say teacher.seed=0"),
        (["teacher.run=unfinished"], "unfinished/0 is not finished; the command that began it goes on"),
        (["teacher.run=[linear, linear]"], "names a run twice"),
        (["teacher.run=linear", "teacher.precision=float16"], "teacher.precision: float16 needs a CUDA"),
        (["teacher.run=linear", "data.classes=50"], "tells 100 classes apart, this run has 50"),
        (["teacher.run={cut}"], "cut.pt: not a checkpoint that can be read"),
        (["teacher.run={text}"], "text.pt: not a checkpoint"),
        (["teacher.run=linear", "objective={fitnet: {}}"], "names no stages"),
        (["teacher.run=[linear, margin]", "objective={fitnet: {}}"], "several teachers have no mean"),
    ],
)  # fmt: skip
def test_a_teacher_that_cannot_teach_is_refused_before_anything_is_written(
    runs, tmp_path, overrides, message
):
    best = (runs / "linear" / "0" / "best.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(best[: len(best) // 2])
    (tmp_path / "text.pt").write_text("no weights")
    filled = [
        o.replace("{cut}", str(tmp_path / "cut.pt")).replace("{text}", str(tmp_path / "text.pt"))
        for o in overrides
    ]
    with pytest.raises(ConfigError, match=message):
        train_tiny(runs / "refused" / "0", *DISTILL, *filled)
    assert not (runs / "refused").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["objective={distill: {}}"], "objective.distill: distill learns from a teacher; say teacher.run="),
        ([*DISTILL, *KEPT, "data.mix={mixup: {}}"], "teacher.cache: data.mix pairs"),
        (["objective={fitnet: {}}", *KEPT], "teacher.cache: feature maps are too"),
        ([*DISTILL, "teacher.views=2"], "teacher.run: missing"),
        ([*DISTILL, "teacher.runn=linear"], "teacher.runn: unknown; did you mean run?"),
        ([*DISTILL, "teacher.run=[]"], "teacher.run: expected a run's name"),
        ([*DISTILL, "teacher=linear"], "teacher: expected `key: value` options"),
        ([*DISTILL, "teacher.run=linear", "teacher.vews=2"], "teacher.vews: unknown; did you mean views"),
    ],
)  # fmt: skip
def test_a_recipe_that_cannot_be_taught_is_refused(overrides, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        tiny_config(*overrides)


def test_a_mix_that_is_part_of_the_view_can_be_kept(runs):
    options = ("data.mix={mixup: {}}", "teacher.views=2", "data.shuffle=false")
    kept = prepare(student(runs, *options)).engine
    live = prepare(student(runs, *options, "teacher.cache=false")).engine
    for epoch in (0, 1, 2):
        for step in (0, kept.plan.steps_per_epoch - 1):
            said = []
            for engine in (kept, live):
                engine.begin(epoch)
                positions = engine.plan.positions(engine.order(epoch), step)
                config = engine.config
                batch = dress(engine.train, positions, config.data, 0, view_epoch(config, epoch), 100)
                said.append(engine.teacher.answer(batch, positions).logits)
            torch.testing.assert_close(*said, atol=5e-3, rtol=2e-3)


def test_a_teacher_that_no_loss_asks_is_not_loaded(runs, tmp_path):
    _, summary = train_tiny(tmp_path / "run" / "0", f"teacher.run={runs / 'linear' / '0'}")
    assert "teacher.run has no effect here" in summary["warnings"]
    assert "distillation" not in summary


def test_a_teachers_name_is_looked_for_beside_the_run(runs, tmp_path):
    path = find_teacher("linear", 0, runs)
    assert path == runs / "linear" / "0" / "best.pt"
    assert find_teacher(str(path), 5, tmp_path) == path
    assert find_teacher(str(runs / "linear"), 0, tmp_path) == path
    config = tiny_config(*DISTILL, f"teacher.run=[resnet18_baseline, {runs / 'linear'}, nothing]")
    assert missing_teachers(config.teacher, runs) == ["resnet18_baseline"]
    assert Run(runs / "a" / "b" / "0", "x", "a/b").runs == runs


def test_train_teacher_trains_it_first_on_the_students_data(tmp_path, monkeypatch, capsys):
    (tmp_path / "recipes").mkdir()
    teacher = resolve(read("demo"), [*TINY, "data.dataset={train: 200}", "data.val=50"]).dump()
    (tmp_path / "recipes" / "small_teacher.yaml").write_text(yaml.safe_dump(teacher))
    mine = tmp_path / "mine.yaml"
    mine.write_text(yaml.safe_dump(student(tmp_path, "teacher.run=small_teacher", "teacher.seed=3").dump()))
    monkeypatch.setattr("cifarlab.recipes.FOLDER", tmp_path / "recipes")
    command = ["cifarlab", "train", str(mine), "--runs", str(tmp_path / "runs")]

    def status(*arguments):
        monkeypatch.setattr("sys.argv", [*command, *arguments])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return stop.value.code or 0

    assert status() == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert (
        f"cifarlab train small_teacher train.seed=3 --runs {tmp_path / 'runs'}`, or add --train-teacher"
        in error
    )
    assert not (tmp_path / "runs").exists()
    assert status("--train-teacher") == 0
    saved = Run(tmp_path / "runs" / "small_teacher" / "3").plain_config()
    assert (saved["data"]["dataset"]["train"], saved["data"]["val"], saved["train"]["seed"]) == (300, 100, 3)
    first = (tmp_path / "runs" / "small_teacher" / "3" / "best.pt").stat().st_mtime_ns
    assert "the teacher first: small_teacher" in capsys.readouterr().out
    assert status("--train-teacher") == 0
    assert (tmp_path / "runs" / "small_teacher" / "3" / "best.pt").stat().st_mtime_ns == first


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("run", ["linear", "margin"])
def test_a_teacher_on_a_gpu_says_what_it_says_on_the_cpu(runs, run, cache):
    options = (
        "data.augment={crop: {}}",
        "teacher.views=1",
        "teacher.precision=float32",
        "objective={rkd: {}}",
    )
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    truth = answers(prepare(student(runs, *options, run=run)).engine)[1]
    for cached in ("true", "false"):
        engine = prepare(
            student(runs, *options, "train.device=cuda", f"teacher.cache={cached}", run=run)
        ).engine
        said = answers(engine)[1]
        assert said.logits.is_cuda
        torch.testing.assert_close(said.logits.cpu(), truth.logits, atol=1e-2, rtol=5e-3)
        torch.testing.assert_close(said.embedding.cpu(), truth.embedding, atol=1e-2, rtol=5e-3)
