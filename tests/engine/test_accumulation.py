"""Gradient accumulation: a step of several batches is the step of one batch of all their pictures."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cifarlab.engine.plan import Plan
from cifarlab.engine.step import Engine
from cifarlab.training.setup import prepare
from tests.tiny import tiny_config, train_tiny
from tests.training.test_loop import assert_same_run

# Nothing here makes one picture's answer depend on another's: batch norm takes its stored statistics.
APART = (
    "train.precision=float32",
    "model.backbone.dropout=0",
    "model.batch_norm_eval=backbone",
    "optim={name: sgd, lr: 0.05, schedule: cosine}",
)
VIEWS = {
    "plain": (),
    "mixed": ("data.mix={mixup: {}}", "data.augment.color_jitter={p: 0.5}"),
    "clipped": ("train.grad_clip=0.1",),
    "one size a picture": ("data.multi_scale={sizes: [16, 24, 32], per: sample}",),
    "one size a step": ("data.multi_scale={sizes: [16, 24]}",),
    "averaged": ("train.average={name: ema, decay: 0.5}",),
}


def stepped(*overrides: str, steps: int) -> Engine:
    engine = prepare(tiny_config(*APART, *overrides)).engine
    engine.model.train()
    for step in range(steps):
        engine.step(engine.order(0), 0, step)
    return engine


@pytest.mark.parametrize("views", VIEWS)
def test_it_is_one_batch_of_as_many_pictures(views: str):
    """A whole epoch of 200 pictures: its last step has 20, in batches of 6, 6, 6 and 2.

    With three sizes, batches of 10: a smaller one may hold a single picture of a size, which joins another.
    """
    size, times = (10, 3) if views == "one size a picture" else (6, 5)
    whole = stepped(*VIEWS[views], "data.batch_size=30", steps=7)
    parts = stepped(*VIEWS[views], f"data.batch_size={size}", f"train.accumulate={times}", steps=7)
    assert parts.plan.steps_per_epoch == whole.plan.steps_per_epoch == 7
    assert_close(parts, whole)
    rates = [[engine.learning_rate(step) for step in range(14)] for engine in (parts, whole)]
    assert rates[0] == rates[1]


def assert_close(one: Engine, other: Engine):
    pairs = zip(one.evaluated.state_dict().items(), other.evaluated.state_dict().values(), strict=True)
    for (key, value), expected in pairs:
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-6, msg=key)
    for ours, theirs in zip(one.model.parameters(), other.model.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6)
    assert one.means.read() == pytest.approx(other.means.read(), rel=1e-5)


@given(st.integers(1, 400), st.integers(2, 40), st.integers(1, 6))
def test_an_epoch_shows_every_picture_once_and_no_batch_has_one_alone(samples, batch_size, accumulate):
    plan = Plan(samples, batch_size, 3, accumulate)
    order = torch.randperm(samples)
    steps = [plan.positions(order, step) for step in range(plan.steps_per_epoch)]
    batches = [len(batch) for step in steps for batch in step.split(batch_size)]
    # The second epoch's steps are counted on.
    bounds = [plan.batches(step + plan.steps_per_epoch, samples) for step in range(plan.steps_per_epoch)]
    assert [last - first for step in bounds for first, last in step] == batches
    assert [last for step in bounds for _, last in step] == [*itertools.accumulate(batches)]
    assert all(size > 1 for size in batches) or samples == 1
    shown = torch.cat(steps)
    assert torch.equal(shown, order[: len(shown)])
    assert samples - len(shown) == (1 if samples > 1 and samples % batch_size == 1 else 0)
    assert all(len(step) == batch_size * accumulate for step in steps[:-1])
    assert [plan.samples_before(step) for step in range(len(steps) + 1)] == [
        sum(map(len, steps[:step])) for step in range(len(steps) + 1)
    ]


def test_the_model_never_sees_more_than_a_batch_and_each_with_a_seed_of_its_own():
    """Also where batch norms' statistics are estimated again; dropout differs from batch to batch."""
    overrides = ("data.batch_size=20", "train.accumulate=4", "train.average={name: swa, start: 0}")
    engine = prepare(tiny_config(*overrides)).engine
    seen: list[tuple[int, int]] = []
    for model in (engine.model, engine.average.module):
        model.backbone.register_forward_hook(
            lambda module, given, _: seen.append((len(given[0]), torch.initial_seed()))
        )
    engine.model.train()
    for step in range(engine.plan.steps_per_epoch):
        engine.step(engine.order(0), 0, step)
    assert [size for size, _ in seen] == [20] * 10
    assert len({seed for _, seed in seen}) == 10
    trained = seen[:]
    engine.finish(0)
    assert seen[10:] == trained, "the average sees them as they were seen in training"


def test_a_run_resumes_exactly(tmp_path, stop_at):
    overrides = ("train.accumulate=2", "model.backbone.dropout=0.3", "train.average={name: ema, decay: 0.9}")
    whole, summary = train_tiny(tmp_path / "whole", *overrides)
    with stop_at(5):
        train_tiny(tmp_path / "halved", *overrides)
    halved, _ = train_tiny(tmp_path / "halved", *overrides)
    assert_same_run(whole, halved)
    assert summary.epochs_run == 2
