import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cifarlab.core.batch import Batch, Output
from cifarlab.core.errors import Failure
from cifarlab.engine.running_means import Means, batch_accuracy
from cifarlab.runs.log import RunLog, read_log
from cifarlab.training.progress import duration

pytestmark = pytest.mark.quick

CPU = torch.device("cpu")


@given(st.lists(st.tuples(st.floats(-100, 100, width=32), st.integers(1, 300)), min_size=1, max_size=20))
def test_means_are_weighted_by_samples(values):
    means = Means(CPU)
    for step, (value, weight) in enumerate(values):
        means.add({"loss": torch.tensor(value)}, weight, step)
    total = sum(weight for _, weight in values)
    assert means.read()["loss"] == pytest.approx(sum(v * w for v, w in values) / total, abs=1e-9)


def test_means_go_on_from_their_state():
    one, other = Means(CPU), Means(CPU)
    one.add({"a": torch.tensor(1.0)}, 2, 0)
    other.load_state_dict(one.state_dict())
    for means in (one, other):
        means.add({"a": torch.tensor(4.0)}, 1, 1)
    assert one.read() == other.read() == {"a": 2.0}
    one.reset()
    assert one.read() == {}


def test_the_first_step_that_is_not_finite_is_remembered():
    means = Means(CPU)
    for step, value in enumerate([1.0, float("inf"), 2.0, float("nan")], start=5):
        means.add({"a": torch.tensor(value)}, 1, step)
    assert means.first_bad_step() == 6
    means.reset()
    assert means.first_bad_step() is None
    means.add({"a": torch.tensor(1.0)}, 1, 9)
    means.watch([torch.tensor(float("nan"))], 9)
    assert means.first_bad_step() == 9


def test_batch_accuracy():
    logits = torch.tensor([[0.0, 1.0], [1.0, 0.0], [3.0, 2.0]])
    labels = torch.tensor([1, 1, 0])
    batch = Batch(torch.zeros(3, 3, 2, 2), labels, torch.eye(2)[labels], torch.arange(3))
    assert batch_accuracy(batch, Output(logits, logits)).item() == pytest.approx(2 / 3)


def events(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(folder / "tensorboard"))
    board.Reload()
    return {tag: [(e.step, e.value) for e in board.Scalars(tag)] for tag in board.Tags()["scalars"]}


def test_a_log_is_cut_back_and_tensorboard_with_it(tmp_path):
    log = RunLog(tmp_path)
    log.append({"epoch": 1, "val/top1": 0.25})
    size = log.size
    log.append({"epoch": 2, "val/top1": 0.5})
    log = RunLog(tmp_path, size=size)
    log.append({"epoch": 2, "val/top1": 0.75})
    assert [row["val/top1"] for row in read_log(tmp_path / "metrics.jsonl")] == [0.25, 0.75]
    assert events(tmp_path)["val/top1"] == [(1, 0.25), (2, 0.75)]
    assert all(json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines())


@pytest.mark.parametrize("room", [0, 30, 900, 3000])
def test_a_log_that_finds_no_room_fails_in_one_line_and_waits_for_nobody(tmp_path, room):
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    row = {f"train/loss/{label}": 0.5 for label in "abcdefgh"}

    def fill() -> None:
        log = RunLog(tmp_path)
        for epoch in range(100):
            log.append({"epoch": epoch, **row})

    # A file of more bytes is refused by the system, as on a full disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        with pytest.raises(Failure, match=r"metrics\.jsonl: cannot be written \(File too large\)"):
            fill()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    kept = read_log(tmp_path / "metrics.jsonl")
    assert [entry["epoch"] for entry in kept] == [*range(len(kept))]
    if room >= 900:
        assert events(tmp_path)["train/loss/a"][0] == (0, 0.5)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.4, "59 s"), (61, "1 min 1 s"), (3599, "59 min 59 s"), (4320, "1 h 12 min")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text
