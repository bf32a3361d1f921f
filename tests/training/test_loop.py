import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from cifarlab.core import checkpoints
from cifarlab.core.errors import ConfigError, Failure
from cifarlab.engine.step import Engine
from cifarlab.evaluation import score, sealed
from cifarlab.models.classifier import Classifier
from cifarlab.runs.folder import Run
from cifarlab.runs.signals import Interrupted
from cifarlab.training import loop as train_module
from cifarlab.training import setup as prepare_module
from cifarlab.training.memory import smaller
from tests.tiny import TINY, logged, once, tiny_config, train_tiny

# Everything that has state: momentum, an average, dropout, a schedule, views.
STATEFUL = ("train.average={name: ema, decay: 0.9}", "optim.name=adamw", "data.augment.color_jitter={p: 0.5}")


def assert_same_run(one: Run, other: Run):
    """Bit-identical weights, optimizer state, best model and log."""
    for name in ("last.pt", "best.pt"):
        states = [checkpoints.load_checkpoint(run.folder / name, ()) for run in (one, other)]
        for state in states:
            for key in ("seconds", "peak_memory_bytes", "config", "log_size"):
                state.pop(key, None)
            for row in (state.get("row"), state.get("best")):
                for key in ("seconds", "images_per_second") if row else ():
                    row.pop(key)
        assert_equal(*states)
    assert logged(one) == logged(other)


def assert_equal(one, other, path=""):
    assert type(one) is type(other), path
    if isinstance(one, dict):
        assert list(one) == list(other), path
        for key in one:
            assert_equal(one[key], other[key], f"{path}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), path
        for i, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_equal(a, b, f"{path}[{i}]")
    elif isinstance(one, torch.Tensor):
        assert torch.equal(one, other), path
    else:
        assert one == other, path


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    return train_tiny(tmp_path_factory.mktemp("runs") / "whole" / "0", *STATEFUL)


@pytest.mark.quick
def test_a_run_leaves_what_it_promises(uninterrupted):
    run, summary = uninterrupted
    found = " ".join(sorted(path.name for path in run.folder.iterdir()))
    assert found == "best.pt config.yaml env.json last.pt lock metrics.jsonl summary.json tensorboard"
    assert json.loads(run.summary_path.read_text()) == summary.to_json()
    assert " ".join(summary.to_json()) == (
        "recipe seed epochs epochs_run ended_by chosen_on chosen_epoch train_top1 val_top1 test_top1 gap "
        "parameters data_fingerprint seconds images_per_second macs peak_memory_bytes warnings"
    )
    assert summary.chosen_on == "val"
    assert summary.test_top1 is None
    assert summary.gap == summary.train_top1 - summary.val_top1
    # conv1 3*8*9 at 16x16, conv2 8*16*9 at 8x8, linear 16*100
    assert summary.macs == 3 * 8 * 9 * 256 + 8 * 16 * 9 * 64 + 1600
    rows = logged(run)
    assert [row["epoch"] for row in rows] == [1, 2]
    assert {"val/top1", "train/top1", "train/loss/cross_entropy", "train/loss/total", "lr"} <= rows[0].keys()
    env = json.loads(run.env_path.read_text())
    assert {"versions", "hardware", "git", "data_fingerprint"} <= env.keys()
    assert list((run.folder / "tensorboard").iterdir())


def test_the_same_command_again_says_that_it_is_finished(uninterrupted, capsys):
    run, summary = uninterrupted
    before = run.last_path.stat().st_mtime_ns
    assert train_module.train_run(tiny_config(*STATEFUL), run) == summary
    assert run.last_path.stat().st_mtime_ns == before


def test_two_runs_of_one_config_are_equal_and_of_two_seeds_are_not(uninterrupted, tmp_path):
    run, _ = uninterrupted
    again, _ = train_tiny(tmp_path / "again", *STATEFUL)
    assert_same_run(run, again)
    other, _ = train_tiny(tmp_path / "other", *STATEFUL, "train.seed=1")
    assert logged(run) != logged(other)


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("at", [0, 4, 6, 9])
def test_a_signal_saves_and_the_same_command_goes_on(uninterrupted, tmp_path, monkeypatch, kind, at):
    step = Engine.step

    def interrupted(self, positions, epoch, number):
        step(self, positions, epoch, number)
        if number == at:
            os.kill(os.getpid(), kind)

    monkeypatch.setattr(Engine, "step", interrupted)
    before = signal.getsignal(kind)  # Ignored, where the tests run in the background of a script.
    with pytest.raises(Interrupted, match="the same command resumes it") as stopped:
        train_tiny(tmp_path / "run", *STATEFUL)
    assert stopped.value.status == 128 + kind
    monkeypatch.undo()
    assert signal.getsignal(kind) == before
    run, _ = train_tiny(tmp_path / "run", *STATEFUL)
    assert_same_run(uninterrupted[0], run)


def test_a_long_epoch_saves_in_between(uninterrupted, tmp_path, monkeypatch):
    """What is saved mid-epoch is enough to go on from, without any warning of the end."""
    monkeypatch.setattr(train_module, "SECONDS_BETWEEN_SAVES", 0.0)
    step = Engine.step

    def dies(self, positions, epoch, number):
        if number == 5:
            raise OSError("the machine went away")
        step(self, positions, epoch, number)

    monkeypatch.setattr(Engine, "step", dies)
    with pytest.raises(OSError, match="went away"):
        train_tiny(tmp_path / "run", *STATEFUL)
    assert checkpoints.load_checkpoint(tmp_path / "run" / "last.pt", ())["step"] == 5
    monkeypatch.undo()
    run, _ = train_tiny(tmp_path / "run", *STATEFUL)
    assert_same_run(uninterrupted[0], run)


# Forks a process for each line of a command that it is given: what it takes to import torch, it takes once.
FORKS = """
import os, shlex, sys
import torch._dynamo, torch.utils.tensorboard.summary
import cifarlab.training.loop
from cifarlab import cli

for line in sys.stdin:
    process = os.fork()
    if not process:
        sys.argv = ["cifarlab", *shlex.split(line)]
        cli.main()
    print("process", process, flush=True)
    print("ended", os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
"""


def test_a_killed_process_resumes_to_the_same_bits(tmp_path):
    """SIGKILL at random moments, at least five times; an uninterrupted process gives the same bits."""
    longer = once(*TINY, *STATEFUL, "train.epochs=12")
    rng = random.Random(0)

    def train(name, kill):
        """The status that a process of its own ends with; `kill` it soon after its first epoch."""
        words = ["train", "demo", *longer, "--name", name, "--runs", str(tmp_path)]
        forks.stdin.write(shlex.join(words) + "\n")
        forks.stdin.flush()
        output, process = "", None
        for line in forks.stdout or ():
            output += line
            what, _, number = line.partition(" ")
            if what == "process":
                process = int(number)
            elif what == "ended":
                return int(number), output
            elif what == "epoch" and kill and process is not None:
                time.sleep(rng.uniform(0, 0.15))
                os.kill(process, signal.SIGKILL)
                kill = False
        raise AssertionError(output)

    kills = 0
    with subprocess.Popen(
        [sys.executable, "-c", FORKS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as forks:
        status, output = train("whole", kill=False)
        assert status == 0, output
        while kills < 20:
            status, output = train("killed", kill=kills < 5)
            if status == 0:
                break
            assert status == -signal.SIGKILL, output
            kills += 1
        forks.stdin.close()
    assert kills >= 5
    assert_same_run(Run(tmp_path / "whole" / "0"), Run(tmp_path / "killed" / "0"))


def test_a_log_is_cut_back_to_the_checkpoint(uninterrupted, tmp_path, monkeypatch):
    monkeypatch.setattr(
        checkpoints, "save_checkpoint", _fails_at(checkpoints.save_checkpoint, 4)
    )  # best, last, best of epoch 2, then last
    with pytest.raises(OSError, match="disk"):
        train_tiny(tmp_path / "run", *STATEFUL, "train.select=last")
    monkeypatch.undo()
    run = Run(tmp_path / "run")
    assert len(logged(run)) == 2
    with run.metrics_path.open("ab") as file:
        file.write(b'{"epoch": 3, "half a li')
    train_tiny(tmp_path / "run", *STATEFUL, "train.select=last")
    assert [row["epoch"] for row in logged(run)] == [1, 2]


def _fails_at(call, count):
    calls = []

    def failing(*args, **kwargs):
        calls.append(1)
        if len(calls) == count:
            raise OSError("disk full")
        return call(*args, **kwargs)

    return failing


def test_another_configuration_under_the_same_name_is_refused(uninterrupted):
    run, _ = uninterrupted
    with pytest.raises(ConfigError, match=r"optim.lr: 0.001 there, 0.01 now.*--name whole-2"):
        train_module.train_run(tiny_config(*STATEFUL, "optim.lr=0.01"), run)


IN_ORDER = {
    "data.augment": ("crop", "flip", "cutout"),
    "data.mix": ("mixup", "cutmix"),
    "objective": ("cross_entropy", "supcon"),
}


@pytest.mark.parametrize("section", IN_ORDER)
def test_the_order_of_labels_is_part_of_a_run(tmp_path, section):
    labels = IN_ORDER[section]
    clear = [f"{section}={{crop: null, flip: null}}"] if section == "data.augment" else []
    clear = ["objective={cross_entropy: null}"] if section == "objective" else clear

    def config(order):
        return tiny_config(*clear, f"{section}={{{', '.join(f'{label}: {{}}' for label in order)}}}")

    run = Run(tmp_path / "run" / "0", recipe="demo")
    run.folder.mkdir(parents=True)
    run.write_config(config(labels))
    run.refuse_other(config(labels))
    message = f"{section}: order [{', '.join(labels)}] there, order [{', '.join(labels[::-1])}] now"
    with pytest.raises(ConfigError, match=re.escape(message)) as error:
        run.refuse_other(config(labels[::-1]))
    assert str(error.value).count("\n") == 0
    # Written and read again, the labels are where they were.
    inner = run.plain_config()
    for key in section.split("."):
        inner = inner[key]
    assert tuple(inner) == labels


def test_a_run_is_not_resumed_in_another_order_of_augmentations(tmp_path):
    """The pictures that it would go on with are others: a cutout before the crop moves with the crop."""
    first = ["data.augment={crop: null, flip: null}", "data.augment={crop: {}, flip: {}, cutout: {}}"]
    then = [first[0], "data.augment={cutout: {}, crop: {}, flip: {}}"]
    run, summary = train_tiny(tmp_path / "run" / "0", *first, "train.epochs=1")
    weights = run.last_path.read_bytes()
    run.summary_path.unlink()
    with pytest.raises(ConfigError, match=r"data\.augment: order \[crop, flip, cutout\] there"):
        train_tiny(run.folder, *then, "train.epochs=1")
    assert run.last_path.read_bytes() == weights
    assert train_tiny(run.folder, *first, "train.epochs=1")[1].val_top1 == summary.val_top1


def test_a_run_of_an_older_version_is_the_same_run(uninterrupted, tmp_path):
    """Its config.yaml lacks the options that came later: they are at their defaults, or it is another run."""
    run, summary = uninterrupted
    older = Run(tmp_path / "older" / "0", recipe="demo")
    shutil.copytree(run.folder, older.folder)
    plain = run.plain_config()
    for section, key in (
        ("optim", "decay_norms"),
        ("optim", "eps"),
        ("data", "skip_broken"),
        ("train", "select"),
    ):
        del plain[section][key]
    del plain["data"]["augment"]["crop"]["padding"]
    older.config_path.write_text(yaml.safe_dump(plain, sort_keys=False))
    assert train_module.train_run(tiny_config(*STATEFUL), older) == summary
    with pytest.raises(ConfigError, match=r"\(optim\.decay_norms: False there, True now\)"):
        train_module.train_run(tiny_config(*STATEFUL, "optim.decay_norms=true"), older)
    # What cannot be read by this version is compared as it stands.
    plain["optim"]["momentun"] = 0.9
    older.config_path.write_text(yaml.safe_dump(plain))
    with pytest.raises(ConfigError, match=r"optim\.momentun: 0\.9 there, None now"):
        train_module.train_run(tiny_config(*STATEFUL), older)


def test_another_device_or_root_is_the_same_run(uninterrupted):
    run, summary = uninterrupted
    elsewhere = tiny_config(*STATEFUL, "train.device=auto", "data.root=elsewhere")
    assert train_module.train_run(elsewhere, run) == summary


def test_fresh_starts_over(tmp_path):
    run, _ = train_tiny(tmp_path / "run", "train.epochs=1")
    _, summary = train_tiny(tmp_path / "run", "train.epochs=1", "optim.lr=0.01", fresh=True)
    assert logged(run)[0]["lr"] != 0
    assert run.plain_config()["optim"]["lr"] == 0.01
    assert summary.epochs == 1


def test_fresh_removes_what_the_run_wrote_and_nothing_else(tmp_path):
    run, _ = train_tiny(tmp_path / "run", "train.epochs=1")
    (run.folder / "thesis.txt").write_text("years of work")
    train_tiny(tmp_path / "run", "train.epochs=1", "optim.lr=0.01", fresh=True)
    assert (run.folder / "thesis.txt").read_text() == "years of work"


def test_half_a_removal_is_not_resumed(tmp_path):
    """Killed while `--fresh` removes: what was trained under the old configuration is not gone on with."""
    run, _ = train_tiny(tmp_path / "run", "train.epochs=1")
    run.config_path.unlink()
    with pytest.raises(ConfigError, match=r"config\.yaml is missing"):
        train_tiny(tmp_path / "run", "optim.lr=0.5")
    removed = []
    unlink = Path.unlink
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "unlink", lambda self, **kw: (removed.append(self.name), unlink(self, **kw))[1])
        run.start_over()
    assert removed[-1] == "config.yaml"


def test_a_run_does_not_go_on_with_other_data(tmp_path, monkeypatch):
    step = Engine.step

    def stops(self, positions, epoch, number):
        step(self, positions, epoch, number)
        if number == 8:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Engine, "step", stops)
    with pytest.raises(Interrupted):
        train_tiny(tmp_path / "run")
    monkeypatch.undo()
    load_splits = prepare_module.load_splits

    def changed(*args, **options):
        splits = load_splits(*args, **options)
        return replace(splits, fingerprint={"train": "another"})

    monkeypatch.setattr(prepare_module, "load_splits", changed)
    with pytest.raises(ConfigError, match="the data have changed"):
        train_tiny(tmp_path / "run")
    monkeypatch.undo()
    train_tiny(tmp_path / "run")
    monkeypatch.setattr(sealed, "load_splits", changed)
    with pytest.raises(ConfigError, match=r"not what .* was trained on"):
        score.evaluate(tmp_path / "run", split="val", device="cpu")


@pytest.mark.parametrize("at", ["last step", "conclusion"])
def test_a_signal_at_the_end_is_not_lost(tmp_path, monkeypatch, at):
    """The run is finished, and whoever asked to stop is heard: no further seed begins."""
    owner, name, number = (Engine, "step", 13) if at == "last step" else (Run, "write_summary", None)
    call = getattr(owner, name)

    def signals(*args):
        result = call(*args)
        if number in (None, args[-1]):
            os.kill(os.getpid(), signal.SIGTERM)
        return result

    monkeypatch.setattr(owner, name, signals)
    with pytest.raises(Interrupted):
        train_tiny(tmp_path / "run")
    monkeypatch.undo()
    run, summary = train_tiny(tmp_path / "run")
    assert run.summary() == summary


def test_weights_that_are_not_finite_are_not_saved(tmp_path, monkeypatch):
    """The loss of a step may be finite and its update not."""
    step = Engine.step

    def poisoned(self, positions, epoch, number):
        step(self, positions, epoch, number)
        if number == 9:
            next(self.model.parameters()).data.fill_(float("nan"))
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Engine, "step", poisoned)
    with pytest.raises(Failure, match="weights were not finite"):
        train_tiny(tmp_path / "run", "train.grad_clip=null")
    state = checkpoints.load_checkpoint(tmp_path / "run" / "last.pt", ())
    assert all(value.isfinite().all() for value in state["engine"]["model"].values())


def test_an_epochs_last_update_is_looked_at_where_nothing_is_scored(tmp_path, monkeypatch):
    step = Engine.step

    def poisoned(self, positions, epoch, number):
        step(self, positions, epoch, number)
        if number + 1 == self.plan.steps_per_epoch:
            next(self.model.parameters()).data.fill_(float("nan"))

    monkeypatch.setattr(Engine, "step", poisoned)
    with pytest.raises(Failure, match=r"weights were not finite \(epoch 1"):
        train_tiny(tmp_path / "run", "data.val=0", "train.select=last")
    assert not (tmp_path / "run" / "last.pt").exists()
    assert not (tmp_path / "run" / "best.pt").exists()


def test_a_log_that_was_lost_does_not_grow_zeros(tmp_path, monkeypatch):
    step = Engine.step

    def dies(self, positions, epoch, number):
        if number == 8:
            raise OSError("gone")
        step(self, positions, epoch, number)

    monkeypatch.setattr(Engine, "step", dies)
    with pytest.raises(OSError, match="gone"):
        train_tiny(tmp_path / "run")
    monkeypatch.undo()
    run = Run(tmp_path / "run")
    run.metrics_path.unlink()
    train_tiny(tmp_path / "run")
    assert [row["epoch"] for row in logged(run)] == [2]


def test_settings_without_effect_are_named(tmp_path):
    _, summary = train_tiny(
        tmp_path / "run", "train.epochs=1", "data.skip_broken=true", "data.root=elsewhere"
    )
    assert summary.warnings == ["data.skip_broken has no effect here", "data.root has no effect here"]


def test_a_folder_that_cannot_be_made_is_a_mistake(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        train_tiny(tmp_path / "file" / "name" / "0")


def test_a_second_process_on_the_run_is_refused(tmp_path):
    run = Run(tmp_path / "run")
    with run.locked(), pytest.raises(ConfigError, match="by another process"):
        train_tiny(tmp_path / "run")


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    _run, _ = train_tiny(tmp_path / "good", "train.epochs=1")
    with pytest.raises(Failure, match=r"not finite at step \d+ .*learning rate .*optim.lr") as error:
        train_tiny(tmp_path / "run", "optim.lr=1e30", "optim.schedule=constant", "train.grad_clip=null")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "run" / "summary.json").exists()


def test_the_last_good_checkpoint_stays_when_a_loss_is_not_finite(tmp_path, monkeypatch):
    step = Engine.step

    def poisoned(self, positions, epoch, number):
        if number == 9:
            next(self.model.parameters()).data.fill_(float("nan"))
        step(self, positions, epoch, number)

    monkeypatch.setattr(Engine, "step", poisoned)
    with pytest.raises(Failure, match=r"at step 10 \(epoch 2.*last.pt is from before"):
        train_tiny(tmp_path / "run", "data.limit=160")
    state = checkpoints.load_checkpoint(tmp_path / "run" / "last.pt", ())
    assert state["step"] == 5
    assert all(value.isfinite().all() for value in state["engine"]["model"].values())


def test_out_of_memory_names_the_option(tmp_path, monkeypatch):
    def fails(*args):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Engine, "step", fails)
    with pytest.raises(Failure, match=r"try data\.batch_size=16 train\.accumulate=2 \("):
        train_tiny(tmp_path / "run")


@settings(max_examples=60, deadline=None)
@given(
    batch_size=st.integers(2, 300),
    image_size=st.integers(8, 64),
    more=st.lists(
        st.sampled_from(
            ["data.mix=cutmix", "optim.sharpness=sam", "objective=supcon", "data.multi_scale={sizes: [24]}",
             "train.accumulate=3"]
        ),
        unique=True,
    ),
)  # fmt: skip
def test_what_out_of_memory_advises_is_accepted(batch_size, image_size, more):
    words = [f"data.batch_size={batch_size}", f"data.image_size={image_size}", *more]
    try:
        config = tiny_config(*words)
    except ConfigError:
        return
    advice = smaller(config)
    if advice == "a smaller model.backbone":
        assert batch_size == 2
        assert image_size == 8 or config.data.multi_scale is not None
        return
    less = tiny_config(*words, *advice.split())
    assert (less.data.batch_size, less.data.image_size) < (batch_size, image_size)
    assert ("accumulate" in advice) == (
        batch_size > 2 and "objective=supcon" not in more and "optim.sharpness=sam" not in more
    )


@pytest.mark.parametrize(
    "override",
    [
        "data.val=300",
        "data.limit=301",
        "data.classes=101",
        "train.device=cuda:9",
        "data.val=0",
        "data.val=0.001",
    ],
)
def test_a_mistake_makes_no_run_folder(tmp_path, override):
    with pytest.raises(ConfigError) as error:
        train_tiny(tmp_path / "runs" / "name" / "0", override)
    assert override.partition("=")[0] in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "runs").exists()


def test_an_epoch_chosen_on_test_says_so(tmp_path, capsys):
    from rich.console import Console

    from cifarlab.training.progress import OPTIMISTIC, TrainingProgress

    progress = TrainingProgress(Console(width=300))
    _, summary = train_tiny(tmp_path / "run", "train.select=test", "data.val=0", progress=progress)
    assert summary.chosen_on == "test"
    assert summary.val_top1 is None
    assert summary.test_top1 == max(row["test/top1"] for row in logged(Run(tmp_path / "run")))
    assert capsys.readouterr().out.count(OPTIMISTIC) == 2


def test_training_does_not_read_the_test_pictures(tmp_path, monkeypatch):
    from cifarlab.data import splits

    read = splits.read_data
    asked = []
    monkeypatch.setattr(splits, "read_data", lambda data, part: asked.append(part) or read(data, part))
    train_tiny(tmp_path / "run", "train.epochs=1")
    assert "test" not in asked


def test_frozen_views_and_unshuffled_batches_are_the_same_every_epoch():
    from cifarlab.training.setup import prepare

    def views(*overrides):
        engine = prepare(tiny_config(*overrides)).engine
        from cifarlab.engine.batches import make_batch, view_epoch

        data = engine.config.data
        epochs = [view_epoch(engine.config, epoch) for epoch in (0, 1)]
        orders = [engine.order(epoch)[:32] for epoch in (0, 1)]
        return [
            make_batch(engine.train_split, order, data, 0, epoch, 100).images
            for order, epoch in zip(orders, epochs, strict=True)
        ]

    first, second = views("data.shuffle=false", "data.freeze_views=true")
    assert torch.equal(first, second)
    first, second = views("data.shuffle=false")
    assert not torch.equal(first, second)
    first, second = views("data.freeze_views=true")
    assert not torch.equal(first, second)


def test_seeds_may_share_their_validation_pictures(tmp_path):
    ids = []
    for overrides in (("train.seed=0",), ("train.seed=1",), ("train.seed=1", "data.split_seed=0")):
        splits = prepare_module.prepare(tiny_config(*overrides)).splits
        ids.append(splits.val.ids.tolist())
    assert ids[0] == ids[2] != ids[1]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_runs_memory_on_a_gpu_is_not_that_of_the_run_before(tmp_path):
    words = ("train.device=cuda", "train.engine=eager", "train.epochs=1")
    _, large = train_tiny(tmp_path / "large", *words, "data.image_size=256", "data.batch_size=100")
    _, small = train_tiny(tmp_path / "small", *words, "data.image_size=16")
    assert small.peak_memory_bytes < large.peak_memory_bytes / 2


def test_four_frames_lie_between_the_loop_and_the_model(tmp_path, monkeypatch):
    """From the frame of the loop to that of the network: what a reader of a traceback steps through."""
    depths = []

    def forward(self, *arguments, **options):
        frames = [frame.f_code for frame, _ in traceback.walk_stack(None)]
        names = [code.co_name for code in frames]
        if "train_epoch" in names:
            own = [code for code in frames[: names.index("train_epoch")] if "cifarlab" in code.co_filename]
            depths.append(len(own))
        return plain(self, *arguments, **options)

    plain = Classifier.forward
    monkeypatch.setattr(Classifier, "forward", forward)
    train_tiny(tmp_path / "run", "train.epochs=1")
    assert {*depths} == {4}
