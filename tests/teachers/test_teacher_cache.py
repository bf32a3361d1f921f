"""A teacher's answers, kept: the same as live, found again, and never those of anything else."""

import json
import os
import shutil
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch

from cifarlab.core import checkpoints
from cifarlab.core.errors import ConfigError
from cifarlab.data.arrays import checksum, digest
from cifarlab.data.cache import Stopped, locked
from cifarlab.engine.batches import make_batch, view_epoch
from cifarlab.runs.folder import Run
from cifarlab.runs.signals import Interrupted
from cifarlab.teachers import Replay, Teacher
from cifarlab.training.loop import train_run
from cifarlab.training.progress import TrainingProgress
from cifarlab.training.setup import prepare
from tests.teachers.taught import answers, student
from tests.tiny import logged


def test_the_same_losses_with_and_without_the_cache(runs, tmp_path):
    overrides = ("data.augment={flip: {p: 0.5}}", "data.views=2", "train.epochs=4")
    rows = {}
    for name, cached in (("kept", "true"), ("live", "false")):
        config = student(runs, *overrides, f"teacher.cache={cached}")
        run = Run(tmp_path / name / "0")
        train_run(config, run)
        rows[name] = logged(run)
    for kept, live in zip(rows["kept"], rows["live"], strict=True):
        assert kept["train/loss/distill"] == pytest.approx(live["train/loss/distill"], rel=2e-3)
        assert kept["train/loss/total"] == pytest.approx(live["train/loss/total"], rel=2e-3)


@pytest.mark.parametrize("run", ["linear", "margin"])
def test_a_replayed_answer_is_the_live_one_to_float16(runs, run):
    options = ("data.augment={crop: {}}", "data.views=3", "objective={rkd: {}}")
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
        options = ("data.augment={crop: {}, flip: {p: 0.5}}", "data.views=2", f"teacher.cache={cached}")
        engine = prepare(student(runs, *options)).engine
        data, rows = engine.config.data, torch.arange(50)
        views = [
            make_batch(engine.train_split, rows, data, 0, view_epoch(engine.config, e), 100).images
            for e in range(4)
        ]
        assert torch.equal(views[0], views[2])
        assert torch.equal(views[1], views[3])
        assert not torch.equal(views[0], views[1])


def files(cache):
    return {path: path.stat().st_mtime_ns for path in cache.rglob("logits.npy")}


def test_a_cache_is_found_again_and_one_of_anything_else_is_not(runs, cache):
    def fill(*overrides, run="linear"):
        engine = prepare(student(runs, "data.augment={crop: {}}", "data.views=2", *overrides, run=run)).engine
        return engine.begin(0) or ""

    assert "answers for view 1 of 2" in fill()
    assert not fill()
    assert not fill("optim.lr=0.5", "objective.distill.temperature=2")
    others = [
        ("train.seed=1",), ("data.val=50",), ("data.limit=150",), ("data.augment.crop.padding=2",),
        ("data.augment.flip={p: 0.25}",), ("teacher.image_size=64",), ("teacher.precision=bfloat16",),
        ("data.views=3",), ("data.store_size=40",), ("data.dataset={train: 310}",), ("objective.rkd={}",),
    ]  # fmt: skip
    for count, other in enumerate(others, start=2):
        assert "computed again" not in fill(*other), other
        assert len(list(cache.iterdir())) == count, other
    assert fill(run="margin")


FAULTS = (
    "cut off", "empty", "a bit", "no key", "empty key", "another key", "another scale", "no scale", "a list",
    "no array", "other views",
)  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_cache_that_does_not_match_is_computed_again(runs, cache, fault):
    config = student(runs, "data.augment={crop: {}}", "data.views=1")
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
        record["checksums"]["witnesses"] = checksum(seen)
        record.pop("seal")
        key.write_text(json.dumps({**record, "seal": digest(record)}))
    again = prepare(config).engine
    assert "computed again" in (again.begin(0) or "")
    assert torch.equal(answers(again)[1].logits, truth)
    assert prepare(config).engine.begin(0) is None


def test_a_filling_that_is_stopped_leaves_nothing_and_the_run_goes_on(runs, cache, tmp_path, monkeypatch):
    """SIGTERM half-way through the second view: what was whole stays, and the run ends as if undisturbed."""
    config = student(runs, "data.augment={crop: {}}", "data.views=2", "train.epochs=2")
    monkeypatch.setattr("cifarlab.teachers.cache.PICTURES_PER_PASS", 50)
    whole, parts = Run(tmp_path / "whole" / "0"), Run(tmp_path / "parts" / "0")
    train_run(config, whole)
    shutil.rmtree(cache)
    ask, asked = Teacher.ask, []

    def interrupted(self, images):
        asked.append(len(images))
        if asked.count(50) == 6:  # 200 pictures a view: the second chunk of the second
            os.kill(os.getpid(), signal.SIGTERM)
        return ask(self, images)

    with monkeypatch.context() as patch:
        patch.setattr(Teacher, "ask", interrupted)
        with pytest.raises(Interrupted, match="the beginning of epoch 2"):
            train_run(config, parts)
    assert [path.parent.name for path in cache.rglob("logits.npy")] == ["view_0"]
    assert not list(cache.rglob("*.tmp"))
    train_run(config, parts)
    assert logged(parts) == logged(whole)
    last = [
        checkpoints.load_checkpoint(run.last_path, ("engine",))["engine"]["model"] for run in (whole, parts)
    ]
    assert all(torch.equal(last[0][name], last[1][name]) for name in last[0])


def test_a_stop_is_heard_while_another_process_fills(runs):
    engine = prepare(student(runs, "data.views=1")).engine
    with locked(engine.teacher.folder / "view_0"), pytest.raises(Stopped):
        engine.begin(0, stop=lambda: True)


def test_a_full_disk_ends_in_one_line(runs, cache, monkeypatch):
    engine = prepare(student(runs, "data.views=1")).engine

    def full(self, rows):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cifarlab.data.arrays.Rows.write", full)
    with pytest.raises(ConfigError, match=r"No space left on device.*teacher\.cache=false"):
        engine.begin(0)
    assert not list(cache.rglob("*.npy"))


def test_a_cache_that_takes_no_data_is_known_before_the_run_begins(runs, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CIFARLAB_CACHE", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match="cannot store the teacher's answers"):
        train_run(student(runs, "data.views=1"), Run(tmp_path / "run" / "0"))
    assert not (tmp_path / "run").exists()


def test_answers_that_float16_cannot_hold_are_refused(runs, monkeypatch):
    engine = prepare(student(runs, "data.views=1")).engine
    ask = Teacher.ask
    monkeypatch.setattr(
        Teacher,
        "ask",
        lambda self, images: replace(ask(self, images), logits=torch.full((len(images), 1, 100), 1e6)),
    )
    with pytest.raises(ConfigError, match=r"some are not finite.*teacher\.cache=false"):
        engine.begin(0)


def test_the_order_and_the_code_of_augmentations_are_part_of_the_key(runs, tmp_path):
    def folder(*overrides):
        return prepare(student(runs, "data.views=1", *overrides)).engine.teacher.folder

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
    engine = prepare(student(runs, "data.views=1", f"imports=[{part}]", "data.augment.noise={}")).engine
    with pytest.raises(ConfigError, match="does not take its random numbers from `draws`"):
        engine.begin(0)


def test_a_resumed_student_equals_an_uninterrupted_one(runs, tmp_path, monkeypatch):
    config = student(runs, "data.augment={crop: {}}", "data.views=2", "train.epochs=3")
    whole = Run(tmp_path / "whole" / "0")
    train_run(config, whole)

    class StopAfterAnEpoch(TrainingProgress):
        def epoch(self, row, best):
            if row["epoch"] == 1:
                os.kill(os.getpid(), signal.SIGTERM)

    parts = Run(tmp_path / "parts" / "0")
    with pytest.raises(Interrupted):
        train_run(config, parts, progress=StopAfterAnEpoch(quiet=True))
    # What the first process found of the teacher stands: the second does not ask again.
    monkeypatch.setattr("cifarlab.training.start.examine", None)
    summary = train_run(config, parts)
    assert logged(parts) == logged(whole)
    last = [
        checkpoints.load_checkpoint(run.last_path, ("engine",))["engine"]["model"] for run in (whole, parts)
    ]
    assert all(torch.equal(last[0][name], last[1][name]) for name in last[0])
    assert json.loads(whole.summary_path.read_text())["distillation"]["cache_seconds"] > 0
    assert summary.distillation.cache_seconds == 0


def test_a_mix_that_depends_on_the_batch_is_not_kept(runs):
    """Neither where the views are frozen, which makes one view come back as `data.views=1` does."""
    options = ("data.freeze_views=true", "data.shuffle=false")
    for mix, kept in (("{mixup: {}}", True), ("{mixup: {per: batch}}", False)):
        engine = prepare(student(runs, *options, f"data.mix={mix}")).engine
        assert isinstance(engine.teacher, Replay) == kept


def test_a_mix_that_is_part_of_the_view_can_be_kept(runs):
    options = ("data.mix={mixup: {}}", "data.views=2", "data.shuffle=false")
    kept = prepare(student(runs, *options)).engine
    live = prepare(student(runs, *options, "teacher.cache=false")).engine
    for epoch in (0, 1, 2):
        for step in (0, kept.plan.steps_per_epoch - 1):
            said = []
            for engine in (kept, live):
                engine.begin(epoch)
                positions = engine.plan.positions(engine.order(epoch), step)
                config = engine.config
                batch = make_batch(
                    engine.train_split, positions, config.data, 0, view_epoch(config, epoch), 100
                )
                said.append(engine.teacher.answer(batch, positions).logits)
            torch.testing.assert_close(*said, atol=5e-3, rtol=2e-3)
