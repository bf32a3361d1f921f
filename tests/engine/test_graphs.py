"""A captured step trains as the step that is written.

Without a GPU a step is rehearsed: what was captured is run again as it was then, with the numbers that the
host had then, so that a step that reads one of them trains otherwise.
"""

import contextlib
import copy
import dataclasses
from typing import Any

import pytest
import torch
from benchmarks.common import exact_float32
from torch import Tensor

from cifarlab.core.batch import Batch, Output
from cifarlab.core.errors import ConfigError
from cifarlab.data.splits import Splits
from cifarlab.engine.batches import BatchLoader, make_batch
from cifarlab.engine.graphs import Graphs, copied, copy_into
from cifarlab.engine.scoring import PICTURES_PER_BATCH
from cifarlab.engine.step import Engine
from cifarlab.training.setup import prepare
from tests.gpu import sync_is_an_error
from tests.tiny import tiny_config

# 100 validate, 200 train in seven batches, the last one of eight pictures.
EXACT = ("train.precision=float32", "train.epochs=5")
NEEDS_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
RECIPES = {
    "plain": (),
    "clip, dropout, moving average": (
        "train.grad_clip=1", "model.backbone.dropout=0.3", "train.average=ema",
    ),
    "a mix, a policy": ("data.mix={mixup: {}}", "data.augment={flip: {p: 0.5}, crop: {padding: 4}}"),
    "sizes in turn": ("data.multi_scale={sizes: [16, 24]}",),
    "sizes by sample": ("data.multi_scale={sizes: [16, 24], per: sample}",),
    "accumulated": ("train.accumulate=3", "model.backbone.dropout=0.3"),
    "uphill": ("optim.sharpness=sam", "model.backbone.dropout=0.3"),
    "sgd, a loss that is eased in": (
        "optim={name: sgd, lr: 0.05, weight_decay: 5e-4}",
        "model.head={name: margin, dim: 32, scale: 16}",
        "objective={cross_entropy: null, sphereface: {margin: 4}}",
    ),
    "muon": ("optim={name: muon, lr: 0.02}",),
    "lion": ("optim={name: lion, lr: 1e-3}",),
}  # fmt: skip


class Rehearsal:
    """Runs a captured step's Python again, where a GPU would replay its kernels."""

    def __init__(self, engine: Engine):
        self.engine, self.recorded = engine, 0

    def warm_up(self):
        return contextlib.nullcontext()

    def record(self, work):
        self.recorded += 1
        groups = self.engine.optimizer.param_groups
        then = [numbers(group) for group in groups]

        def replay(seeds):
            coming, now = iter(seeds), [numbers(group) for group in groups]
            for group, values in zip(groups, then, strict=True):
                group.update(values)
            # What the step takes for its seed is that of the step that was captured.
            work(lambda _: torch.manual_seed(next(coming)))
            assert next(coming, None) is None
            for group, values in zip(groups, now, strict=True):
                group.update(values)

        return replay


def numbers(group: dict) -> dict:
    """What an optimizer reads from the host: a captured step has it as it was."""
    return {key: value for key, value in group.items() if isinstance(value, int | float)}


def eager_and_rehearsed(*overrides: str) -> tuple[Engine, Engine, Rehearsal]:
    eager, captured = (prepare(tiny_config(*EXACT, *overrides)).engine for _ in range(2))
    tape = Rehearsal(captured)
    for engine in (eager, captured):
        engine.use_graphs(Graphs(tape))
    eager.graphs = None  # What is left is the clock of tensors: its rates are float32.
    return eager, captured, tape


def train_epochs(engine: Engine, epochs: range) -> None:
    engine.model.train()
    steps = engine.plan.steps_per_epoch
    for epoch in epochs:
        order = engine.order(epoch)
        for within in range(steps):
            engine.step(order, epoch, epoch * steps + within)


def assert_same(one: Engine, other: Engine) -> None:
    """Weights, moments, averages and sums, bit for bit."""
    left, right = one.state_dict(), other.state_dict()
    for state in (left, right):
        state["moments"] = state["optimizer"]["state"]
    for part in ("model", "objective", "moments", "average", "means"):
        torch.testing.assert_close(left[part], right[part], rtol=0, atol=0, msg=part)


@pytest.mark.parametrize("name", RECIPES)
def test_a_rehearsed_step_is_the_step(name):
    eager, captured, tape = eager_and_rehearsed(*RECIPES[name])
    for engine in (eager, captured):
        train_epochs(engine, range(1))
    first = tape.recorded
    for engine in (eager, captured):
        train_epochs(engine, range(1, 5))
    assert_same(eager, captured)
    # Full batches and the last of an epoch, at each of the sizes they have: no step is captured twice.
    assert 0 < tape.recorded <= (4 if name.startswith("sizes") else 2)
    # Nor after the first epoch, but for sizes that come later, and where it has two whole steps.
    assert first == tape.recorded or name.startswith(("sizes", "accumulated"))


SCORED = {"the model": (), "its average": ("train.average=ema",), "an average from the middle on": (
    "train.average={name: swa, start: 0.5}",
)}  # fmt: skip


def scores_by_epoch(engine: Engine, splits: Splits, epochs: int) -> list[dict[str, float]]:
    """Of validation at two sizes and of training pictures, after each epoch."""
    found = []
    for epoch in range(epochs):
        train_epochs(engine, range(epoch, epoch + 1))
        engine.finish(epoch)
        found += [engine.score(splits.val), engine.score(splits.val, 24), engine.score(splits.train)]
    return found


@pytest.mark.parametrize("name", SCORED)
def test_a_rehearsed_evaluation_is_the_evaluation(name, monkeypatch):
    """Batches of 40 pictures and a last one of 20 are captured by their shape, and replayed from then on."""
    monkeypatch.setitem(PICTURES_PER_BATCH, "cpu", 40)
    found, graphs = [], []
    for way in ("eager", "captured"):
        job = prepare(tiny_config(*EXACT, "data.limit=180", "train.epochs=10", *SCORED[name]))
        tape = Rehearsal(job.engine)
        job.engine.use_graphs(Graphs(tape))
        if way == "eager":
            job.engine.graphs = None
        found.append(scores_by_epoch(job.engine, job.splits, 10))
        graphs.append(tape.recorded)
    assert found[0] == found[1]
    assert len({scores["loss"] for scores in found[0]}) > 20, "replays see the weights of their own time"
    # A step's full batches and its last; the scored model's two batches at two sizes.
    assert graphs == [0, 2 + 4 * (2 if name == "an average from the middle on" else 1)]


def test_a_rate_on_the_host_would_be_found():
    eager, captured, _ = eager_and_rehearsed()
    for group in captured.optimizer.param_groups:
        group["lr"] = 0.0
    for engine in (eager, captured):
        train_epochs(engine, range(2))
    with pytest.raises(AssertionError):
        assert_same(eager, captured)


def test_a_number_of_a_batch_on_the_host_would_be_found():
    _, captured, _ = eager_and_rehearsed()
    captured._clock = None
    with pytest.raises(AssertionError, match="progress is not a tensor, but differs between calls"):
        train_epochs(captured, range(2))


def test_the_clock_of_tensors_trains_as_that_of_numbers():
    _, tensors, _ = eager_and_rehearsed(*RECIPES["sgd, a loss that is eased in"])
    numbers = prepare(tiny_config(*EXACT, *RECIPES["sgd, a loss that is eased in"])).engine
    for engine in (tensors, numbers):
        train_epochs(engine, range(2))
    assert tensors.means.read() == pytest.approx(numbers.means.read(), rel=1e-4)


def test_a_run_goes_on_from_a_checkpoint_of_the_other_clock():
    """A run that was started on a GPU has rates in tensors; one that was started on a CPU has numbers."""
    _, captured, _ = eager_and_rehearsed("optim.name=adamw")
    plain = prepare(tiny_config(*EXACT)).engine
    for one, other in ((plain, captured), (captured, plain)):
        train_epochs(one, range(1))
        other.load_state_dict(copy.deepcopy(one.state_dict()))
        train_epochs(other, range(1, 2))
    assert all(isinstance(group["lr"], Tensor) for group in captured.optimizer.param_groups)
    assert all(isinstance(group["lr"], float) for group in plain.optimizer.param_groups)


@pytest.mark.parametrize("pixels", [0, 16 * 16 * 70, 1 << 30])
@pytest.mark.parametrize("mix", ["", "data.mix={mixup: {}}", "data.mix={cutmix: {per: batch}}"])
def test_what_is_dressed_ahead_is_what_is_dressed_batch_by_batch(pixels, mix):
    policy = "data.augment={flip: {p: 0.5}, crop: {padding: 4}}"
    config = tiny_config(policy, *([mix] if mix else []))
    engine = prepare(config).engine
    ahead = BatchLoader(engine.train_split, config, engine.model.num_classes, pixels)
    for epoch in (0, 1):
        order = engine.order(epoch)
        for step in range(engine.plan.steps_per_epoch):
            [(first, last)] = engine.plan.batches(step, len(order))
            found = ahead.batch(order, epoch, first, last)
            alone = make_batch(
                engine.train_split, order[first:last], config.data, 0, epoch, engine.model.num_classes
            )
            for name in ("images", "labels", "targets", "ids"):
                assert torch.equal(getattr(found, name), getattr(alone, name)), name


def test_records_are_copied_whole():
    """Teachers answer in records within records."""
    maps = (torch.rand(2, 3), torch.rand(2, 4))
    teacher = Output(torch.rand(2, 5), torch.rand(2, 3), stages=maps, scale=torch.tensor(2.0))
    batch = Batch(torch.rand(2, 3, 4, 4), torch.arange(2), torch.eye(2), torch.arange(2), teacher, 0.5)
    place = copied(batch)
    torch.testing.assert_close(dataclasses.asdict(place), dataclasses.asdict(batch))
    for tensor in (batch.images, batch.labels, teacher.logits, teacher.scale, *maps):
        tensor += 1
    assert not torch.equal(place.teacher.stages[1], maps[1])
    copy_into(place, batch)
    torch.testing.assert_close(dataclasses.asdict(place), dataclasses.asdict(batch))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.device=cpu", "train.engine: graph captures the steps of a GPU, and this run is on the cpu"),
        pytest.param("optim.lookahead={}", "lookahead counts", marks=[pytest.mark.gpu, NEEDS_GPU]),
        pytest.param("train.precision=float16", "graph needs bfloat16", marks=[pytest.mark.gpu, NEEDS_GPU]),
    ],
)
def test_what_cannot_be_captured_is_refused(override, message):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with pytest.raises(ConfigError, match=message):
        prepare(tiny_config("train.engine=graph", f"train.device={device}", override))


@pytest.mark.gpu
@NEEDS_GPU
@pytest.mark.parametrize("name", RECIPES)
def test_a_gpu_replays_the_step_bit_for_bit(name):
    overrides = (*EXACT, *RECIPES[name], "train.device=cuda", "train.deterministic=true")
    eager, captured = (
        prepare(tiny_config(*overrides, f"train.engine={engine}")).engine for engine in ("eager", "graph")
    )
    for engine in (eager, captured):
        train_epochs(engine, range(5))
    assert_same(eager, captured)


@pytest.mark.gpu
@NEEDS_GPU
@pytest.mark.parametrize("name", SCORED)
def test_a_gpu_replays_the_evaluation_bit_for_bit(name, monkeypatch):
    monkeypatch.setitem(PICTURES_PER_BATCH, "cuda", 40)
    found = []
    for way in ("eager", "graph"):
        overrides = (*EXACT, *SCORED[name], "data.limit=180", "train.epochs=10", "train.deterministic=true")
        job = prepare(tiny_config(*overrides, "train.device=cuda", f"train.engine={way}"))
        found.append(scores_by_epoch(job.engine, job.splits, 10))
    assert found[0] == found[1]


@pytest.mark.gpu
@NEEDS_GPU
@pytest.mark.parametrize("engine", ["eager", "graph"])
def test_a_gpu_is_not_waited_for_within_an_evaluation(engine, monkeypatch):
    monkeypatch.setitem(PICTURES_PER_BATCH, "cuda", 40)
    job = prepare(tiny_config("train.device=cuda", f"train.engine={engine}"))
    expected = [job.engine.score(job.splits.val) for _ in range(5)][-1]  # Captured by now.
    # The sums are read once, at the very end.
    monkeypatch.setattr("cifarlab.engine.scoring._means", lambda sums, count: sums / count)
    with sync_is_an_error():
        sums: Any = job.engine.score(job.splits.val)
    assert sums.tolist() == [*expected.values()]


@pytest.mark.gpu
@NEEDS_GPU
@pytest.mark.parametrize("engine", ["eager", "graph"])
@pytest.mark.parametrize("name", RECIPES)
def test_a_gpu_is_not_waited_for_within_an_epoch(name, engine):
    overrides = ("train.device=cuda", "train.epochs=6", *RECIPES[name], f"train.engine={engine}")
    engine = prepare(tiny_config(*overrides)).engine
    train_epochs(engine, range(5))  # At several sizes not all are captured by the end of the first.
    with sync_is_an_error():
        train_epochs(engine, range(5, 6))
    assert engine.means.read()["loss/total"] > 0


@pytest.mark.gpu
@NEEDS_GPU
@exact_float32()
def test_a_gpu_computes_the_losses_of_the_cpu():
    """Float32, without the shortcuts of TF32: a hundred steps of the same pictures in the same order."""
    losses = []
    for device in ("cpu", "cuda"):
        overrides = ("train.precision=float32", "train.epochs=15", f"train.device={device}")
        engine = prepare(tiny_config(*overrides)).engine
        train_epochs(engine, range(15))
        losses.append(engine.means.read()["loss/total"])
    assert losses[1] == pytest.approx(losses[0], rel=5e-3)


@pytest.mark.gpu
@NEEDS_GPU
def test_what_waits_for_the_device_cannot_be_captured_and_says_so(tmp_path):
    engine = prepare(tiny_config("train.device=cuda", "train.engine=graph")).engine
    engine.model.backbone.register_forward_hook(lambda *given: given[-1].sum().item())
    with pytest.raises(ConfigError, match=r"cannot be captured .*set train.engine=eager"):
        train_epochs(engine, range(1))
