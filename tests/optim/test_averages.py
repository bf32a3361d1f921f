"""Averages: against torch's own, buffers, warm-up, resume."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, update_bn

from cifarlab.core.errors import ConfigError
from cifarlab.core.registries import AVERAGES
from cifarlab.optim.averages import ExponentialAverage
from cifarlab.training.setup import prepare
from tests.tiny import logged, tiny_config, train_tiny
from tests.training.test_loop import assert_same_run


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 5))


def move(model: nn.Module, i: int) -> None:
    """One pretended step: the weights move, and the norm sees a batch."""
    generator = torch.Generator().manual_seed(i)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))
        model.train()(torch.randn(2, 3, 6, 6, generator=generator))


@pytest.mark.parametrize("name", list(AVERAGES))
def test_is_a_module_apart_and_resumes_exactly(name: str):
    model = network()
    whole = AVERAGES.spec(name).build(model)
    half = AVERAGES.spec(name).build(model)
    for i in range(6):
        move(model, i)
        whole.update_parameters(model)
        half.update_parameters(model)
        if i == 2:
            saved = copy.deepcopy(half.state_dict())
            half = AVERAGES.spec(name).build(network())
            half.load_state_dict(saved)
    assert whole.state_dict().keys() == half.state_dict().keys()
    for key, value in whole.state_dict().items():
        assert torch.equal(value, half.state_dict()[key]), key
    assert whole.module.state_dict().keys() == model.state_dict().keys()
    assert not any(p.requires_grad for p in whole.module.parameters())
    assert all(p.requires_grad for p in model.parameters())


def test_without_warmup_it_is_torchs():
    model = network()
    ours = AVERAGES.spec({"name": "ema", "decay": 0.9, "warmup": False}).build(model)
    assert isinstance(ours, ExponentialAverage)
    theirs = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    theirs.n_averaged += 1  # or its first update would copy
    for i in range(5):
        move(model, i)
        ours.update_parameters(model)
        theirs.update_parameters(model)
    for (key, value), expected in zip(
        ours.module.state_dict().items(), theirs.module.state_dict().values(), strict=True
    ):
        if value.is_floating_point():  # torch truncates its average of a counter
            torch.testing.assert_close(value, expected, msg=key)


def test_warmup_follows_the_model_closely_at_first_and_ends_at_the_decay():
    model = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(model.weight)
    average = AVERAGES.spec({"name": "ema", "decay": 0.5}).build(model)
    expected = 0.0
    for n in range(30):
        nn.init.constant_(model.weight, n + 1)
        average.update_parameters(model)
        decay = min(0.5, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * (n + 1)
        assert average.module.weight.item() == pytest.approx(expected, rel=1e-6)


def test_statistics_are_averaged_and_counters_copied():
    model = network()
    average: Any = AVERAGES.spec("ema").build(model)
    for i in range(3):
        move(model, i)
        average.update_parameters(model)
    assert average.module[1].num_batches_tracked == model.state_dict()["1.num_batches_tracked"] == 3
    assert not torch.equal(average.module[1].running_mean, model.state_dict()["1.running_mean"])
    assert average.module[1].running_mean.abs().sum() > 0


def test_a_decay_of_one_is_refused():
    with pytest.raises(ConfigError, match="less than 1"):
        AVERAGES.spec({"name": "ema", "decay": 1})


def test_swa_is_the_mean_of_the_weights_and_has_the_last_buffers():
    model = network()
    average = AVERAGES.spec("swa").build(model)
    seen = []
    for i in range(5):
        move(model, i)
        average.update_parameters(model)
        seen.append(copy.deepcopy(dict(model.named_parameters())))
    for name, value in average.module.named_parameters():
        torch.testing.assert_close(value, torch.stack([weights[name] for weights in seen]).mean(0))
    for name, value in average.module.named_buffers():
        assert torch.equal(value, model.get_buffer(name))


@pytest.mark.parametrize(
    ("start", "epochs"), [(0.0, [1, 2, 3, 4, 5]), (0.6, [3, 4, 5]), (0.61, [4, 5]), (0.99, [5])]
)
def test_swa_counts_the_end_of_each_epoch_from_its_start_on(start: float, epochs: list[int]):
    average = AVERAGES.spec({"name": "swa", "start": start}).build(network())
    assert [done for done in range(1, 36) if average.is_due(done, 7, 35)] == [7 * epoch for epoch in epochs]


SWA = ("train.average={name: swa, start: 0.5}", "train.epochs=4", "data.augment.color_jitter={p: 0.5}")


def engine_after(epochs: int, *overrides: str):
    engine = prepare(tiny_config(*SWA, *overrides)).engine
    steps = engine.plan.steps_per_epoch
    for step in range(epochs * steps):
        engine.model.train()
        engine.step(engine.order(step // steps), step // steps, step)
        if (step + 1) % steps == 0:
            engine.finish(step // steps)
    return engine


def test_the_model_itself_is_scored_until_there_is_an_average():
    early, late = engine_after(1), engine_after(2)
    assert early.evaluated is early.model
    assert late.evaluated is late.average.module


def test_statistics_of_swa_are_torchs_of_the_epochs_training_pictures():
    engine = engine_after(3, "train.precision=float32", "data.mix={mixup: {}}", "model.backbone.dropout=0")
    ours, theirs = copy.deepcopy(engine.evaluated), copy.deepcopy(engine.evaluated)
    norms = [m for m in theirs.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
    assert all(norm.momentum == 0.1 for norm in norms)
    order = engine.order(2)
    batches: list[Tensor] = []
    engine.model.register_forward_pre_hook(lambda _, given: batches.append(given[0]))
    for within in range(engine.plan.steps_per_epoch):
        step = 2 * engine.plan.steps_per_epoch + within
        engine.step(order, 2, step)
    update_bn(batches, theirs)
    for (key, value), expected in zip(ours.named_buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(value, expected, msg=key)


def test_norms_in_evaluation_mode_keep_what_they_know():
    engine = engine_after(2, "model.freeze=backbone", "model.batch_norm_eval=backbone")
    fresh = prepare(tiny_config(*SWA)).engine.model
    for (key, value), before in zip(engine.evaluated.named_buffers(), fresh.buffers(), strict=True):
        assert torch.equal(value, before), key


def test_a_run_with_swa_scores_the_average_and_resumes_exactly(tmp_path, stop_at):
    overrides = (*SWA, "train.select=last")
    whole, _ = train_tiny(tmp_path / "whole", *overrides)
    plain, _ = train_tiny(tmp_path / "plain", *SWA[1:], "train.select=last")
    rows, without = logged(whole), logged(plain)
    assert rows[0] == without[0]
    assert rows[1]["val/loss"] != without[1]["val/loss"], "one epoch's weights, other statistics"
    assert [row["train/loss/total"] for row in rows] == [row["train/loss/total"] for row in without]
    # Within the second and the last epoch, and at an epoch's last step: its statistics are ready by then.
    steps = rows[0]["step"]
    for at in (steps + 1, 2 * steps - 1, 3 * steps + 2):
        folder = tmp_path / str(at)
        with stop_at(at):
            train_tiny(folder, *overrides)
        halved, _ = train_tiny(folder, *overrides)
        assert_same_run(whole, halved)


def test_a_share_of_one_is_refused():
    with pytest.raises(ConfigError, match="less than 1"):
        AVERAGES.spec({"name": "swa", "start": 1})
