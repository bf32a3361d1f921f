"""Checkpoints written beside the training: what is on the disk, in which order, whatever goes wrong."""

import contextlib
import gc
import os
import signal
import threading
import weakref
from collections import OrderedDict

import pytest
import torch
from filelock import FileLock, Timeout
from hypothesis import given, settings
from hypothesis import strategies as st

from cifarlab.core import checkpoints
from cifarlab.core.errors import Failure
from cifarlab.engine.step import Engine
from cifarlab.runs.signals import Interrupted
from cifarlab.training import saver as saving
from cifarlab.training.saver import Saver, snapshot
from tests.gpu import sync_is_an_error
from tests.tiny import train_tiny
from tests.training.test_loop import assert_same_run

CPU = torch.device("cpu")
# A test that would wait for ever fails instead.
SECONDS = 20


class Gate:
    """Holds the thread before each file that it writes, until it is opened; `written` are the names."""

    def __init__(self, patch):
        self.open, self.reached, self.written = threading.Event(), threading.Event(), []
        self.save = checkpoints.save_checkpoint
        patch.setattr(checkpoints, "save_checkpoint", self._held)

    def _held(self, path, state):
        self.reached.set()
        assert self.open.wait(SECONDS), "the gate was not opened"
        self.save(path, state)
        self.written.append(path.name)


@pytest.fixture
def gate(monkeypatch):
    return Gate(monkeypatch)


@pytest.fixture
def saver(tmp_path):
    return Saver(tmp_path / "best.pt", tmp_path / "last.pt", CPU)


def on_disk(saver):
    return [checkpoints.load_checkpoint(path, ()) for path in (saver.best, saver.last)]


def test_a_file_holds_what_was_submitted_though_the_run_trained_on(gate, saver):
    weight, row, notes = torch.zeros(3), {"epoch": 1}, [1, {"seconds": 2.0}]
    with saver:
        saver.submit({"weight": weight, "row": row, "notes": notes}, {"model": {"weight": weight}})
        weight += 1
        row["epoch"] = 2
        notes[1]["seconds"] += 1
        gate.open.set()
    best, last = on_disk(saver)
    assert torch.equal(best["model"]["weight"], torch.zeros(3))
    assert torch.equal(last["weight"], torch.zeros(3))
    assert (last["row"], last["notes"]) == ({"epoch": 1}, [1, {"seconds": 2.0}])


def test_the_newest_waits_and_keeps_the_best_of_those_it_replaces(gate, saver):
    with saver:
        saver.submit({"step": 1}, {"row": 1})
        assert gate.reached.wait(SECONDS)
        saver.submit({"step": 2}, {"row": 2})
        saver.submit({"step": 3}, {"row": 3})
        saver.submit({"step": 4})
        assert gate.written == []
        gate.open.set()
        saver.flush()
        assert gate.written == ["best.pt", "last.pt"] * 2, "best first; no third pair"
        assert [state.get("row", state.get("step")) for state in on_disk(saver)] == [3, 4]


def test_nothing_is_written_twice(gate, saver):
    gate.open.set()
    with saver:
        saver.submit({"step": 1}, {"row": 1})
        saver.flush()
        saver.submit({"step": 2})
        saver.flush()
        saver.flush()
    assert gate.written == ["best.pt", "last.pt", "last.pt"]


@given(
    moments=st.lists(st.tuples(st.booleans(), st.integers(0, 3)), min_size=1, max_size=8),
    failing=st.sets(st.integers(0, 6), max_size=3),
)
@settings(max_examples=60, deadline=None)
def test_a_kill_at_any_moment_leaves_a_best_that_is_at_least_as_new_as_last_says(moments, failing):
    """moments: whether an epoch is the best so far, and how many files the disk then takes."""
    disk, begun, permits = {"best": 0}, [], threading.Semaphore(0)

    def save(path, state):
        assert permits.acquire(timeout=SECONDS)
        begun.append(path)
        if len(begun) - 1 in failing:
            raise Failure(f"{path}: full")
        if path == "last":
            assert disk["best"] >= state["best"]
        disk[path] = state["best"]
        if path == "last":
            disk["epoch"] = state["epoch"]

    heard, best = [], 0

    def hear(call, *words):
        try:
            call(*words)
        except Failure as error:
            heard.append(error)

    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as opened:
        patch.setattr(checkpoints, "save_checkpoint", save)
        saver = opened.enter_context(Saver("best", "last", CPU))
        opened.callback(permits.release, 100)
        for epoch, (is_better, files) in enumerate(moments, 1):
            best = epoch if is_better else best
            hear(saver.submit, {"epoch": epoch, "best": best}, {"best": best} if is_better else None)
            if files:
                permits.release(files)
        permits.release(100)
        hear(saver.flush)
        saver.flush()
    assert bool(heard) == any(number < len(begun) for number in failing)
    if not heard:
        assert (disk["epoch"], disk["last"]) == (len(moments), best)
        assert disk["best"] == best


def test_an_error_reaches_the_training_once_and_names_the_file(tmp_path, gate):
    gate.open.set()
    (tmp_path / "file").write_text("")
    with Saver(tmp_path / "best.pt", tmp_path / "file" / "last.pt", CPU) as saver:
        saver.submit({"step": 1})
        saver.wait()
        with pytest.raises(Failure, match=r"file/last\.pt: cannot be written") as error:
            saver.submit({"step": 2}, {"row": 2})
        assert "\n" not in str(error.value)
        saver.wait()
        # It was taken all the same: its best is on the disk, and its own error is the next.
        assert checkpoints.load_checkpoint(saver.best, ())["row"] == 2
        with pytest.raises(Failure, match="cannot be written"):
            saver.flush()
        saver.flush()


def test_a_best_that_could_not_be_written_comes_before_the_next_last(saver, gate, monkeypatch):
    gate.open.set()
    save, tried = gate.save, []

    def full_at_first(path, state):
        tried.append(path.name)
        if len(tried) == 1:
            raise Failure("full")
        save(path, state)

    monkeypatch.setattr(gate, "save", full_at_first)
    with saver:
        saver.submit({"step": 1}, {"row": 1})
        saver.wait()
        with pytest.raises(Failure, match="full"):
            saver.submit({"step": 2})
    assert tried == ["best.pt", "best.pt", "last.pt"]
    assert [state.get("row", state.get("step")) for state in on_disk(saver)] == [1, 2]


def test_whoever_leaves_without_a_flush_hears_of_errors_too(saver, monkeypatch):
    def fails(path, state):
        raise OSError("disk full")

    monkeypatch.setattr(checkpoints, "save_checkpoint", fails)
    with pytest.raises(OSError, match="disk full"), saver:
        saver.submit({"step": 1})


@pytest.mark.parametrize("is_full", [False, True])
def test_leaving_by_an_error_writes_what_was_submitted_and_keeps_the_error(saver, gate, monkeypatch, is_full):
    def leave():
        with saver:
            saver.submit({"step": 1})
            assert gate.reached.wait(SECONDS)
            saver.submit({"step": 2})
            # Opened by a second thread: this one leaves.
            threading.Timer(0.1, gate.open.set).start()
            raise KeyError("the machine went away")

    if is_full:
        monkeypatch.setattr(gate, "save", lambda *_: (_ for _ in ()).throw(Failure("full")))
    with pytest.raises(KeyError, match="went away"):
        leave()
    assert not saver._thread.is_alive()
    if not is_full:
        assert checkpoints.load_checkpoint(saver.last, ())["step"] == 2


def test_an_impatient_user_does_not_leave_before_the_thread(saver, gate, monkeypatch):
    """What follows is the end of the run's lock."""
    join, hits = saver._thread.join, []

    def interrupted():
        hits.append(1)
        if len(hits) < 3:
            raise KeyboardInterrupt
        gate.open.set()
        join()

    monkeypatch.setattr(saver._thread, "join", interrupted)
    with pytest.raises(KeyboardInterrupt), saver:
        saver.submit({"step": 1})
    assert len(hits) == 3
    assert checkpoints.load_checkpoint(saver.last, ())["step"] == 1


def test_a_snapshot_is_the_state_in_memory_of_its_own():
    module = torch.nn.BatchNorm2d(3)
    picture = torch.rand(2, 3, 4, 4).to(memory_format=torch.channels_last)
    last, best = snapshot(
        {"engine": {"model": module.state_dict(), "empty": torch.empty(0)}, "picture": picture},
        {"model": module.state_dict(), "pair": (picture, picture[0])},
    )
    assert best is not None
    own, state = best["model"], module.state_dict()
    assert type(own) is OrderedDict
    assert list(own) == list(state)
    assert own._metadata == state._metadata  # pyright: ignore[reportAttributeAccessIssue]
    assert all(torch.equal(own[key], state[key]) for key in state)
    assert not {own[key].data_ptr() for key in own} & {state[key].data_ptr() for key in state}
    # Both files hold the model: there is one copy of it. A part is another tensor than the whole.
    assert all(own[key] is last["engine"]["model"][key] for key in own)
    assert last["picture"] is best["pair"][0]
    assert last["picture"].stride() == picture.stride()
    assert torch.equal(best["pair"][1], picture[0])


@pytest.mark.parametrize("is_full", [False, True])
def test_a_snapshot_is_gone_when_it_is_written_and_waits_for_no_collection_of_garbage(
    saver, monkeypatch, is_full
):
    clone, save, copies = saving._clone, checkpoints.save_checkpoint, []

    def watched(tensor):
        copies.append(weakref.ref(copy := clone(tensor)))
        return copy

    def saves(path, state):
        if is_full:
            raise Failure("the disk is full")
        save(path, state)

    monkeypatch.setattr(saving, "_clone", watched)
    monkeypatch.setattr(checkpoints, "save_checkpoint", saves)
    weight = torch.zeros(3)
    failures = 0
    gc.collect()
    gc.disable()
    try:
        with saver:
            for _ in range(3):
                try:
                    saver.submit({"weights": [weight, (weight + 1,)]}, {"model": {"weight": weight}})
                    saver.flush()
                except Failure:
                    failures += 1
        # After a failure the best of the newest is still owed.
        assert [copy() is None for copy in copies] == [*4 * [True], not is_full, True]
        assert failures == 3 * is_full
    finally:
        gc.enable()


def test_where_the_device_is_full_the_copy_is_the_hosts(saver, gate, monkeypatch):
    def fails(tensor):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(saving, "_clone", fails)
    weight = torch.zeros(3)
    with saver:
        saver.submit({"weight": weight})
        weight += 1
        gate.open.set()
    assert torch.equal(checkpoints.load_checkpoint(saver.last, ())["weight"], torch.zeros(3))


def test_where_the_device_is_full_its_copies_are_gone_before_the_hosts_are_made(monkeypatch):
    copies, gone = [], []

    class Watched(dict):
        def items(self):
            gone.append([copy() is None for copy in copies])
            return super().items()

    def fails_at_the_second(tensor):
        if copies:
            raise torch.OutOfMemoryError("CUDA out of memory")
        copies.append(weakref.ref(copy := tensor.clone()))
        return copy

    monkeypatch.setattr(saving, "_clone", fails_at_the_second)
    gc.disable()
    try:
        snapshot({"weight": torch.zeros(3), "more": Watched(weight=torch.ones(3))}, None)
    finally:
        gc.enable()
    # Items are read twice each time: where the dict is copied, and where its values are.
    assert gone == [[False], [False], [True], [True]]


def test_a_run_that_is_stopped_while_the_thread_is_busy_is_saved_whole(tmp_path, gate, stop_at, monkeypatch):
    """Its first checkpoint is being written for epochs: it says that it is saved when it is."""
    flush = Saver.flush

    def flushed(self):
        assert gate.written == []
        gate.open.set()
        flush(self)

    monkeypatch.setattr(Saver, "flush", flushed)
    with stop_at(23):
        train_tiny(tmp_path / "run", "train.epochs=5", "train.select=last")
    # Seven steps an epoch: 24 were done.
    assert checkpoints.load_checkpoint(tmp_path / "run" / "last.pt", ())["step"] == 24
    assert checkpoints.load_checkpoint(tmp_path / "run" / "best.pt", ())["row"]["epoch"] == 3
    assert gate.written == ["best.pt", "last.pt"] * 2
    monkeypatch.undo()
    run, _ = train_tiny(tmp_path / "run", "train.epochs=5", "train.select=last")
    whole, _ = train_tiny(tmp_path / "whole", "train.epochs=5", "train.select=last")
    assert_same_run(whole, run)


def test_a_run_that_could_not_be_saved_does_not_say_that_it_was(tmp_path, monkeypatch):
    step, save = Engine.step, checkpoints.save_checkpoint

    def stopped(self, positions, epoch, number):
        step(self, positions, epoch, number)
        if number == 8:
            os.kill(os.getpid(), signal.SIGTERM)

    def full(path, state):
        if state.get("step") == 9:
            raise Failure(f"{path}: cannot be written")
        save(path, state)

    monkeypatch.setattr(Engine, "step", stopped)
    monkeypatch.setattr(checkpoints, "save_checkpoint", full)
    with pytest.raises(Failure, match=r"last\.pt: cannot be written"):
        train_tiny(tmp_path / "run")


@pytest.mark.parametrize("stop", [OSError, signal.SIGTERM])
def test_the_run_is_locked_until_the_last_file_is_written(tmp_path, monkeypatch, stop):
    step, save, locked = Engine.step, checkpoints.save_checkpoint, []

    def stopped(self, positions, epoch, number):
        step(self, positions, epoch, number)
        if number == 8 and stop is OSError:
            raise OSError("the machine went away")
        if number == 8:
            os.kill(os.getpid(), stop)

    def slow(path, state):
        threading.Event().wait(0.2)
        try:
            with FileLock(tmp_path / "run" / "lock").acquire(timeout=0):
                locked.append(False)
        except Timeout:
            locked.append(True)
        save(path, state)

    monkeypatch.setattr(Engine, "step", stopped)
    monkeypatch.setattr(checkpoints, "save_checkpoint", slow)
    with pytest.raises((OSError, Interrupted)):
        train_tiny(tmp_path / "run")
    assert len(locked) >= 2
    assert all(locked)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_snapshot_on_a_gpu_is_taken_and_written_without_the_training_waiting(tmp_path):
    cuda = torch.device("cuda")
    weight, steps = torch.zeros(1 << 20, device=cuda), torch.zeros(3)
    with Saver(tmp_path / "best.pt", tmp_path / "last.pt", cuda) as saver:
        saver.submit({"weight": weight, "steps": steps}, {"model": {"weight": weight}})
        saver.flush()  # Memory is there after it, on both sides.
        weight += 1
        steps += 1
        torch.cuda.synchronize()
        with sync_is_an_error():
            torch.cuda._sleep(1 << 30)  # About half a second of the device's.
            done = torch.cuda.Event()
            done.record()
            saver.submit({"weight": weight, "steps": steps}, {"model": {"weight": weight}})
            assert not done.query(), "the host waited"
            weight += 1
            steps += 1
            saver.flush()
    best, last = on_disk(saver)
    for found in (best["model"]["weight"], last["weight"], last["steps"]):
        assert found.device.type == "cpu"
        assert (found == 1).all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_run_on_a_gpu_goes_on_as_on_a_cpu(tmp_path, stop_at):
    words = ("train.device=cuda", "train.precision=float32", "train.deterministic=true", "train.epochs=4")
    whole, _ = train_tiny(tmp_path / "whole", *words)
    with stop_at(16):
        train_tiny(tmp_path / "run", *words)
    run, _ = train_tiny(tmp_path / "run", *words)
    assert_same_run(whole, run)
