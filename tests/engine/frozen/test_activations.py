"""Kept activations: the same losses as without, found again, and never those of anything else."""

import json
import os
import shutil
import signal
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cifarlab.core.device import has_bfloat16
from cifarlab.core.errors import ConfigError
from cifarlab.data.arrays import RECORD, checksum, digest
from cifarlab.data.cache import Stopped, locked
from cifarlab.doctor.estimate import estimate_cost
from cifarlab.doctor.plan_facts import planned
from cifarlab.doctor.probe import Probe
from cifarlab.engine.frozen import Activations
from cifarlab.engine.frozen import activations as activations_module
from cifarlab.evaluation.score import evaluate
from cifarlab.runs.folder import Run
from cifarlab.runs.ledger import openings
from cifarlab.runs.signals import Interrupted
from cifarlab.training.loop import train_run
from cifarlab.training.setup import prepare
from tests.teachers.taught import DISTILL
from tests.tiny import logged, tiny_config, train_tiny
from tests.training.test_loop import assert_same_run

VIEWS = ("data.augment={crop: {}, flip: {p: 0.5}}", "data.views=2", "train.epochs=3")
CLEAN = ("data.augment={crop: null, flip: null}",)
PROBE = ("model.backbone=tiny", "model.freeze=backbone")
RESNET = ("model.backbone=test_resnet", "model.freeze=[backbone.conv1, backbone.bn1, backbone.layer1]")
EFFICIENTNET = (
    "model.backbone=test_efficientnet", "model.freeze=[backbone.conv_stem, backbone.bn1, backbone.blocks.0]"
)  # fmt: skip
# With all that a frozen part must not disturb: dropout behind it, averages, two passes a step.
STATEFUL = ("model.head.dropout=0.2", "model.head.norm=batch", "train.average={name: ema, decay: 0.8}")
# Three steps an epoch.
FEW = ("data.limit=96", "data.val=32")


def without(*overrides: str) -> tuple[str, ...]:
    return (*overrides, "train.keep_activations=false")


def kept(*overrides: str) -> Activations:
    """The activations of a job; the test fails where they are not kept."""
    job = prepare(tiny_config(*VIEWS, *overrides))
    assert job.activations is not None, job.remarks.notes
    return job.activations


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "overrides",
    [
        (*PROBE, *VIEWS),
        (*PROBE, *CLEAN, *STATEFUL),
        (*RESNET, *VIEWS, *STATEFUL),
        (*EFFICIENTNET, *VIEWS, "optim.sharpness=sam", "train.accumulate=1"),
        (*RESNET, *CLEAN, "train.accumulate=2", "train.average={name: swa, start: 0.4}", "train.grad_clip=1"),
        (*RESNET, *VIEWS, "train.select=test"),
        (*RESNET, "data.freeze_views=true", "data.augment={crop: {}}"),
    ],
    ids=["probe", "stateful probe", "resnet", "efficientnet", "swa", "test", "frozen views"],
)
def test_the_same_run_with_and_without(tmp_path: Path, overrides: tuple[str, ...], precision: str) -> None:
    """Bit for bit: what is kept is what the frozen part gave, and here batches do not change it."""
    overrides = (*overrides, f"train.precision={precision}", "train.epochs=3", *FEW)
    ours, summary = train_tiny(tmp_path / "kept" / "0", *overrides)
    theirs, expected = train_tiny(tmp_path / "live" / "0", *without(*overrides))
    assert len(list((tmp_path / "cache" / "activations").rglob("rows.npy"))) >= 2
    assert_same_run(ours, theirs)
    assert summary.train_top1 == expected.train_top1


@pytest.mark.parametrize("overrides", [PROBE, RESNET, EFFICIENTNET], ids=["probe", "resnet", "efficientnet"])
def test_the_same_losses_on_real_pictures(
    tmp_path: Path, small_cifar100_root: Path, overrides: tuple[str, ...]
) -> None:
    real = ("data.dataset=cifar100", f"data.root={small_cifar100_root}", *FEW)
    overrides = (*overrides, *real, *VIEWS, "train.epochs=3", "train.precision=bfloat16")
    runs = [
        train_tiny(tmp_path / name / "0", *given)[0]
        for name, given in (("kept", overrides), ("live", without(*overrides)))
    ]
    for ours, theirs in zip(*map(logged, runs), strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)
    assert (tmp_path / "cache" / "activations").is_dir()


def test_pictures_are_not_gathered_and_the_frozen_part_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = prepare(tiny_config(*RESNET, *VIEWS)).engine
    engine.model.train()
    assert len(engine.activations.begin(0)) == 2
    monkeypatch.setattr("cifarlab.data.splits.Split.gather", None)
    monkeypatch.setattr("cifarlab.engine.batches.make_batch", None)
    hook = engine.model.backbone.layer1.register_forward_hook(lambda *_: pytest.fail("it runs"))
    engine.step(engine.order(0), 0, 1)
    engine.score(engine.activations.splits.val)
    hook.remove()


def test_compiled_steps_are_the_same(tmp_path: Path) -> None:
    overrides = (*PROBE, *VIEWS, "train.precision=float32")
    eager, _ = train_tiny(tmp_path / "eager" / "0", *overrides)
    compiled, _ = train_tiny(tmp_path / "compiled" / "0", *overrides, "train.engine=compiled")
    for one, other in zip(logged(compiled), logged(eager), strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-6)


def test_a_taught_student(tmp_path: Path) -> None:
    """A teacher whose answers are kept, too; one that answers live needs the pictures."""
    train_tiny(tmp_path / "teacher" / "0", "train.precision=float32")
    taught = (*RESNET, *VIEWS, *DISTILL, f"teacher.run={tmp_path / 'teacher' / '0'}", "train.epochs=4")
    ours, _ = train_tiny(tmp_path / "kept" / "0", *taught)
    theirs, _ = train_tiny(tmp_path / "live" / "0", *without(*taught))
    assert logged(ours) == logged(theirs)
    assert any(
        "the teacher is run" in note
        for note in prepare(tiny_config(*taught, "teacher.cache=false")).remarks.notes
    )


STOPPED = (*RESNET, *VIEWS, *STATEFUL, *FEW, "train.epochs=4")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of `STOPPED` that was never stopped, with a cache of its own."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CIFARLAB_CACHE", str(folder / "cache"))
        return train_tiny(folder / "whole" / "0", *STOPPED)[0]


@pytest.mark.parametrize("at", [1, 4, 8])
def test_a_run_that_is_stopped_goes_on_with_the_same_bits(
    tmp_path: Path, whole: Run, stop_at: Any, at: int
) -> None:
    """Within the first epoch, within the second, at the end of the third; with what was kept and without."""
    with stop_at(at):
        train_tiny(tmp_path / "parts" / "0", *STOPPED)
    shutil.copytree(tmp_path / "parts", tmp_path / "anew")
    resumed, _ = train_tiny(tmp_path / "parts" / "0", *STOPPED)
    assert_same_run(resumed, whole)
    shutil.rmtree(tmp_path / "cache")
    resumed, _ = train_tiny(tmp_path / "anew" / "0", *STOPPED)
    assert_same_run(resumed, whole)


def test_a_run_may_be_resumed_without(tmp_path: Path, stop_at: Any) -> None:
    """The option is no part of a run's identity."""
    whole, _ = train_tiny(tmp_path / "whole" / "0", *RESNET, *VIEWS)
    with stop_at(9):
        train_tiny(tmp_path / "parts" / "0", *RESNET, *VIEWS)
    resumed, _ = train_tiny(tmp_path / "parts" / "0", *without(*RESNET, *VIEWS))
    assert_same_run(resumed, whole)


def test_a_filling_that_is_stopped_leaves_nothing_half_written(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = (*RESNET, *VIEWS, "train.epochs=3")
    monkeypatch.setattr(activations_module, "pictures_per_batch", lambda kind, size: 40)
    whole, _ = train_tiny(tmp_path / "whole" / "0", *overrides)
    shutil.rmtree(cache)
    compute, views = activations_module.activations_at, []

    def interrupted(*given: Any) -> torch.Tensor:
        views.append(given)
        if len(views) == 3:  # Of five chunks of the first view.
            os.kill(os.getpid(), signal.SIGTERM)
        return compute(*given)

    with monkeypatch.context() as patch:
        patch.setattr(activations_module, "activations_at", interrupted)
        with pytest.raises(Interrupted, match="the beginning of epoch 1"):
            train_tiny(tmp_path / "parts" / "0", *overrides)
    assert not list(cache.rglob("rows.npy"))
    assert not list(cache.rglob("*.tmp"))
    resumed, _ = train_tiny(tmp_path / "parts" / "0", *overrides)
    assert_same_run(resumed, whole)


def test_a_stop_is_heard_while_another_process_fills(cache: Path) -> None:
    activations = kept(*RESNET)
    place = activations._place(activations.splits.train, 0)
    with locked(place), pytest.raises(Stopped):
        activations.begin(0, stop=lambda: True)


def test_they_are_found_again_and_those_of_anything_else_are_not(cache: Path, tmp_path: Path) -> None:
    def computed(*overrides: str, epoch: int = 0) -> int:
        return len(kept(*RESNET, *overrides).begin(epoch))

    assert computed() == 2  # The first view, and the validation pictures.
    assert computed() == 0
    same = [("optim.lr=0.5",), ("model.head.dropout=0.5",), ("train.average=ema",), ("data.batch_size=16",),
            ("data.views=3", "train.epochs=4")]  # fmt: skip
    for other in same:
        assert computed(*other) == 0, other
    assert computed(epoch=1) == 1
    assert computed(epoch=1) == 0
    # What differs in the views alone leaves the validation pictures as they are.
    assert computed("data.augment.crop.padding=2") == 1
    other_precision = "float32" if has_bfloat16(torch.device("cpu")) else "bfloat16"
    others = [
        ("train.seed=1",), ("data.val=50",), ("data.limit=150",), (f"train.precision={other_precision}",),
        ("data.image_size=40",), ("data.store_size=40",), ("data.dataset={train: 310}",),
        ("model.normalize=imagenet",), ("model.freeze=[backbone.conv1, backbone.bn1]",),
    ]  # fmt: skip
    for other in others:
        assert computed(*other, "train.keep_activations=true") >= 1, other
    trained, _ = train_tiny(tmp_path / "other" / "0", "model.backbone=test_resnet")
    assert computed(f"model.init={trained.folder}") == 2


def test_seeds_share_clean_pictures_where_they_share_the_split(cache: Path) -> None:
    options = (*CLEAN, "data.split_seed=3")
    start = Path(cache.parent) / "start" / "0"
    train_tiny(start, "model.backbone=test_resnet")
    lines = []
    for seed in (0, 1):
        config = tiny_config(*RESNET, *options, f"train.seed={seed}", f"model.init={start}")
        activations = prepare(config).activations
        assert activations is not None
        lines.append(activations.begin(0))
    assert len(lines[0]) == 2
    assert not lines[1]


FAULTS = (
    "cut off", "empty", "a bit", "no key", "empty key", "another key", "a list", "no rows", "fewer rows",
    "other numbers", "another view",
)  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_what_does_not_match_is_computed_again(cache: Path, fault: str) -> None:
    activations = kept(*RESNET)
    activations.begin(0)
    folder = activations._place(activations.splits.train, 0)
    truth = activations.batch(torch.arange(50), 0).activations.clone()
    rows, key = folder / "rows.npy", folder / RECORD
    content = bytearray(rows.read_bytes())
    if fault == "cut off":
        rows.write_bytes(content[: len(content) // 2])
    elif fault == "empty":
        rows.write_bytes(b"")
    elif fault == "a bit":
        content[len(content) // 2] ^= 1
        rows.write_bytes(content)
    elif fault == "no key":
        key.unlink()
    elif fault == "empty key":
        key.write_text("")
    elif fault == "no rows":
        rows.unlink()
    elif fault == "another view":
        activations.begin(1)
        shutil.rmtree(folder)
        shutil.copytree(activations._place(activations.splits.train, 1), folder)
    else:
        record = json.loads(key.read_text())
        record.pop("seal")
        if fault == "another key":
            record["key"]["weights"] = "0" * 32
        elif fault == "a list":
            record["checksums"] = list(record["checksums"])
        else:  # Sealed, and not what the network gives: its code has changed under the same name.
            found = np.load(rows)
            found = found[:-1] if fault == "fewer rows" else np.roll(found, 1, axis=0)
            np.save(rows, found)
            record["checksums"]["rows"] = checksum(found)
        key.write_text(json.dumps({**record, "seal": digest(record)}))
    again = kept(*RESNET)
    (line,) = again.begin(0)
    assert "recomputed" in line
    assert torch.equal(again.batch(torch.arange(50), 0).activations, truth)
    assert not kept(*RESNET).begin(0)


def test_an_average_of_other_frozen_weights_is_scored_by_pictures(tmp_path: Path) -> None:
    """No registered average moves what is frozen; a recipe's own may."""
    job = prepare(tiny_config(*RESNET, *VIEWS, "train.average=ema"))
    engine = job.engine
    engine.model.train()
    engine.step(engine.order(0), 0, 0)
    with torch.no_grad():
        engine.average.module.get_parameter("backbone.layer1.0.conv1.weight").mul_(3)
    ours = engine.score(job.splits.val)
    engine.activations = None
    assert ours == engine.score(job.splits.val)


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        ((*RESNET, "data.augment={crop: {}}"), "each epoch shows new views; set data.views=10"),
        ((*RESNET, *VIEWS, "data.mix={mixup: {}}"), "data.mix mixes pictures"),
        (
            (*RESNET, *VIEWS, "data.multi_scale={sizes: [24, 32]}"),
            "data.multi_scale shows pictures at several",
        ),
        ((*RESNET, *CLEAN, "train.epochs=1"), "no view recurs: train.epochs=1"),
        ((*RESNET, *VIEWS, "train.epochs=2"), "no view recurs: train.epochs=2, data.views=2"),
        (
            (*RESNET, *VIEWS, "train.epochs=5", "train.stop=1"),
            "no view recurs: train.stop=1, data.views=2",
        ),
        (
            ("model.backbone=test_resnet", "model.freeze=backbone.layer4", *CLEAN),
            "backbone.conv1.0 runs before",
        ),
    ],
)
def test_where_they_cannot_be_kept_a_note_says_why(overrides: tuple[str, ...], reason: str) -> None:
    """And an error, where they were asked for."""
    job = prepare(tiny_config(*overrides))
    assert job.activations is None
    (note,) = (note for note in job.remarks.notes if "activations" in note)
    assert note.startswith("activations of the frozen part are not kept: ")
    assert reason in note
    if "they save" in reason:
        assert prepare(tiny_config(*overrides, "train.keep_activations=true")).activations is not None
        return
    with pytest.raises(ConfigError) as caught:
        prepare(tiny_config(*overrides, "train.keep_activations=true"))
    assert caught.value.path == ("train", "keep_activations")
    assert reason in caught.value.message


def test_nothing_is_said_where_nothing_is_frozen() -> None:
    job = prepare(tiny_config("data.augment={}"))
    assert job.activations is None
    assert not any("activations" in note for note in job.remarks.notes)
    with pytest.raises(ConfigError, match=r"no part of the backbone is frozen; set model\.freeze=backbone"):
        prepare(tiny_config("train.keep_activations=true"))
    assert prepare(tiny_config(*without(*PROBE))).activations is None


def test_their_size_is_said_and_refused_above_the_free_disk(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    overrides = (*PROBE, *VIEWS, "train.precision=float32", "train.epochs=4")
    # Two views and the clean pictures of 200 to train on, 100 to validate, 16 numbers of 4 bytes.
    size = (3 * 200 + 100) * 16 * 4
    said = kept(*overrides).announce()
    assert f"16 numbers a picture in float32, {size / 1e6:.1f} MB in all" in said
    assert str(cache) in said
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(activations_module.shutil, "disk_usage", lambda _: usage(size - 1))
    with pytest.raises(ConfigError, match=r"need 0\.0 MB in .*lower data\.views.*keep_activations=false"):
        train_tiny(tmp_path / "run" / "0", *overrides)
    assert not (tmp_path / "run" / "0" / "config.yaml").exists()
    monkeypatch.setattr(activations_module.shutil, "disk_usage", lambda _: usage(size))
    train_tiny(tmp_path / "run" / "0", *overrides)
    # What is there already is not written again.
    monkeypatch.setattr(activations_module.shutil, "disk_usage", lambda _: usage(0))
    assert "are read from" in kept(*overrides).announce()


def test_a_full_disk_ends_in_one_line(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: object, rows: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("cifarlab.data.arrays.Rows.write", full)
    with pytest.raises(ConfigError, match=r"No space left on device.*keep_activations=false"):
        kept(*RESNET).begin(0)
    assert not list(cache.rglob("*.npy"))


def test_a_place_that_takes_no_data_is_known_before_the_run_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("CIFARLAB_CACHE", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match="cannot store activations in"):
        train_tiny(tmp_path / "run" / "0", *PROBE, *CLEAN)
    assert not (tmp_path / "run" / "0" / "config.yaml").exists()


def test_random_numbers_of_its_own_make_an_augmentation_unfit(tmp_path: Path) -> None:
    part = tmp_path / "noise.py"
    part.write_text(
        "import torch\nfrom cifarlab import AUGMENTS\n@AUGMENTS.register\n"
        "def own_noise(images, draws):\n    return torch.rand_like(images)\n"
    )
    with pytest.raises(ConfigError, match="does not take its random numbers from `draws`"):
        kept(*RESNET, f"imports=[{part}]", "data.augment.own_noise={}").begin(0)


def test_other_activations_each_time_have_their_own_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """Augmented or not: no augmentation is blamed for the network."""
    at, calls = activations_module.activations_at, iter(range(1000))
    for overrides in ((), CLEAN):
        ours = kept(*RESNET, *overrides)
        with monkeypatch.context() as patch:
            patch.setattr(activations_module, "activations_at", lambda *given: at(*given) + next(calls))
            with pytest.raises(
                ConfigError, match=r"different activations each time it is run; set train\.keep"
            ):
                ours.begin(0)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_activations_that_are_not_finite_have_their_own_reason(
    monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    at, ours = activations_module.activations_at, kept(*RESNET, f"train.precision={precision}")
    monkeypatch.setattr(activations_module, "activations_at", lambda *given: at(*given) * float("inf"))
    with pytest.raises(ConfigError, match=r"values that are not finite; set .*train\.keep_act") as caught:
        ours.begin(0)
    assert ("train.precision=float32" in str(caught.value)) == (precision != "float32")


def test_test_pictures_are_looked_at_after_the_ledger_knows(tmp_path: Path) -> None:
    seen = []
    run = Run(tmp_path / "runs" / "0", recipe="demo")
    compute = Activations._fill

    def watched(self: Activations, folder: Path, split: Any, *rest: Any) -> None:
        if split is self.splits.test:
            seen.append(len(openings(run.runs)))
        compute(self, folder, split, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Activations, "_fill", watched)
        train_run(tiny_config(*PROBE, *CLEAN, "train.select=test"), run)
    assert seen == [1]


def test_a_probe_is_scored_on_test_as_its_log_says(tmp_path: Path) -> None:
    run, summary = train_tiny(tmp_path / "run" / "0", *PROBE, *CLEAN, "train.epochs=4")
    assert evaluate(run.folder, split="val").top1 == pytest.approx(summary.val_top1, abs=1e-6)
    assert evaluate(run.folder, split="train").top1 == pytest.approx(summary.train_top1, abs=1e-6)


@pytest.mark.parametrize("overrides", [(*RESNET, *VIEWS), (*PROBE, *CLEAN)], ids=["resnet", "probe"])
def test_an_estimate_computes_a_few_and_keeps_none(cache: Path, overrides: tuple[str, ...]) -> None:
    config = tiny_config(*overrides)
    found = estimate_cost(Probe(planned(config), prepare(config), data_at_hand=True))
    assert found is not None
    assert found.minutes > 0
    assert not list(cache.rglob("*.npy"))


def test_a_part_that_saves_little_is_not_kept_unless_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cifarlab.training.setup.WORTH_KEEPING", 0.5)
    part = ("model.backbone=test_vit", "model.freeze=backbone.patch_embed", *CLEAN)
    job = prepare(tiny_config(*part))
    assert job.activations is None
    assert any("up to backbone.patch_embed they save 1" in note for note in job.remarks.notes)
    assert prepare(tiny_config(*part, "train.keep_activations=true")).activations is not None
