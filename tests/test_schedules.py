"""Schedules: against torch's own, at every step; shape, range and errors."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.scheduler.cosine_lr import CosineLRScheduler
from timm.scheduler.multistep_lr import MultiStepLRScheduler
from timm.scheduler.poly_lr import PolyLRScheduler
from torch.optim import lr_scheduler

from cifarlab.config import OptimConfig
from cifarlab.optim.schedules import cosine, cosine_restarts, learning_rate, linear, one_cycle, step
from cifarlab.registry import SCHEDULES, ConfigError

pytestmark = pytest.mark.quick

TOTAL = 200


def optimizer() -> torch.optim.Optimizer:
    return torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)


def torch_rates(reference: lr_scheduler.LRScheduler, steps: int) -> list[float]:
    rates = []
    for _ in range(steps):
        rates.append(reference.get_last_lr()[0])
        reference.optimizer.step()
        reference.step()
    return rates


def ours(schedule, **options) -> list[float]:
    return [schedule(i / TOTAL, **options) for i in range(TOTAL)]


def test_cosine_is_torchs():
    theirs = torch_rates(lr_scheduler.CosineAnnealingLR(optimizer(), T_max=TOTAL, eta_min=0.05), TOTAL)
    assert ours(cosine, floor=0.05) == pytest.approx(theirs, abs=1e-12)


def test_step_is_torchs():
    theirs = torch_rates(lr_scheduler.MultiStepLR(optimizer(), [60, 120, 160], gamma=0.2), TOTAL)
    assert ours(step) == pytest.approx(theirs, abs=1e-12)


@pytest.mark.parametrize(("cycles", "growth", "first"), [(4, 1, 50), (3, 2, 30), (1, 1, 200), (5, 1, 40)])
def test_cosine_with_restarts_is_torchs(cycles: int, growth: int, first: int):
    total = sum(first * growth**cycle for cycle in range(cycles))
    reference = lr_scheduler.CosineAnnealingWarmRestarts(optimizer(), first, growth, eta_min=0.05)
    found = [cosine_restarts(i / total, floor=0.05, cycles=cycles, growth=growth) for i in range(total)]
    assert found == pytest.approx(torch_rates(reference, total), abs=1e-7)


@settings(max_examples=60, deadline=None)
@given(cycles=st.integers(1, 12), length=st.integers(1, 500), warmup=st.integers(0, 300))
def test_every_restart_is_at_its_own_step(cycles: int, length: int, warmup: int):
    """Also where shares of the run are no round numbers."""
    total = warmup + cycles * length
    for cycle in range(cycles):
        step = warmup + cycle * length
        assert cosine_restarts(step / total, warmup=warmup / total, cycles=cycles) == 1


def test_linear_is_torchs():
    theirs = lr_scheduler.LinearLR(optimizer(), start_factor=1.0, end_factor=0.05, total_iters=TOTAL)
    assert ours(linear, floor=0.05) == pytest.approx(torch_rates(theirs, TOTAL), abs=1e-12)


FALLING = [name for name in SCHEDULES if name != "constant"]


@settings(max_examples=20, deadline=None)
@given(warm=st.integers(0, 100), floor=st.floats(0, 1))
def test_warm_up_and_floor_are_timms(warm: int, floor: float):
    """Its steps by number; the peak is 1, so lr_min is the floor."""
    after = TOTAL - warm
    shared: dict[str, Any] = {"warmup_t": warm, "warmup_lr_init": 0.0, "t_in_epochs": False}
    falling = {**shared, "lr_min": floor, "t_initial": after, "warmup_prefix": True}
    theirs = {
        cosine: CosineLRScheduler(optimizer(), **falling),
        linear: PolyLRScheduler(optimizer(), power=1.0, **falling),
    }
    for schedule, reference in theirs.items():
        rates = [reference._get_lr(i)[0] for i in range(TOTAL)]
        assert ours(schedule, warmup=warm / TOTAL, floor=floor) == pytest.approx(rates, abs=1e-9)
    # timm has no floor here, and its milestone m comes at step m - 1.
    steps = MultiStepLRScheduler(
        optimizer(), decay_t=[101, 151], decay_rate=0.2, warmup_prefix=False, **shared
    )
    rates = [max(floor if i >= warm else 0.0, steps._get_lr(i)[0]) for i in range(TOTAL)]
    found = ours(step, warmup=warm / TOTAL, floor=floor, milestones=(0.5, 0.75))
    assert found == pytest.approx(rates, abs=1e-9)


@pytest.mark.parametrize(("warm", "cycles", "first"), [(20, 3, 60), (50, 5, 30), (0, 2, 100)])
def test_warm_restarts_are_timms(warm: int, cycles: int, first: int):
    reference = CosineLRScheduler(
        optimizer(), t_initial=first, cycle_limit=cycles, lr_min=0.1, warmup_t=warm, warmup_prefix=True,
        t_in_epochs=False,
    )  # fmt: skip
    options = {"warmup": warm / TOTAL, "floor": 0.1, "cycles": cycles}
    rates = [reference._get_lr(i)[0] for i in range(TOTAL)]
    assert ours(cosine_restarts, **options) == pytest.approx(rates, abs=1e-7)


@pytest.mark.parametrize("floor", [0.0, 0.02, 0.5])
def test_one_cycle_falls_to_its_floor_as_torchs_does(floor: float):
    theirs = lr_scheduler.OneCycleLR(
        optimizer(), max_lr=1.0, total_steps=TOTAL + 1, pct_start=61 / (TOTAL + 1),
        final_div_factor=1 / (25 * floor) if floor else math.inf,
    )  # fmt: skip
    assert ours(one_cycle, floor=floor) == pytest.approx(torch_rates(theirs, TOTAL), abs=1e-12)


@pytest.mark.parametrize("name", FALLING)
@settings(max_examples=40, deadline=None)
@given(progress=st.floats(0, 1), warmup=st.floats(0, 0.9), floor=st.floats(0, 1))
def test_once_warm_no_rate_is_below_the_floor(name: str, progress: float, warmup: float, floor: float):
    spec = SCHEDULES.spec({"name": name, "warmup": warmup, "floor": floor})
    assert progress < warmup or floor - 1e-12 <= spec.build(progress) <= 1 + 1e-12


@pytest.mark.parametrize("name", ["cosine", "cosine_restarts", "linear", "one_cycle"])
def test_ends_at_its_floor(name: str):
    schedule = SCHEDULES.spec({"name": name, "warmup": 0.1, "floor": 0.01}).bind()
    assert schedule(1 - 1e-9) == pytest.approx(0.01, abs=1e-6)
    assert schedule(1.0) == pytest.approx(0.01)
    assert min(schedule(i / 1000) for i in range(100, 1000)) >= 0.01


@pytest.mark.parametrize("warmup", [0.3, 0.1, 0.25])
def test_one_cycle_is_torchs(warmup: float):
    # Torch's peak is step pct_start * total - 1 and its end step total - 1; ours ends at progress 1.
    theirs = lr_scheduler.OneCycleLR(
        optimizer(), max_lr=1.0, total_steps=TOTAL + 1, pct_start=(warmup * TOTAL + 1) / (TOTAL + 1)
    )
    assert ours(one_cycle, warmup=warmup) == pytest.approx(torch_rates(theirs, TOTAL), abs=1e-12)


@pytest.mark.parametrize("name", list(SCHEDULES))
@settings(max_examples=60, deadline=None)
@given(progress=st.floats(0, 1, exclude_max=True), warmup=st.floats(0, 1, exclude_max=True))
def test_factor_lies_between_zero_and_the_peak(name: str, progress: float, warmup: float):
    factor = SCHEDULES.spec({"name": name, "warmup": warmup}).build(progress)
    assert isinstance(factor, float)
    assert 0 <= factor <= 1


@pytest.mark.parametrize("name", list(SCHEDULES))
def test_warmup_rises_to_the_peak_at_its_end(name: str):
    schedule = SCHEDULES.spec({"name": name, "warmup": 0.2}).bind()
    rising = [schedule(i / 100) for i in range(21)]
    assert rising == sorted(rising)
    assert rising[-1] == pytest.approx(1)
    if name != "one_cycle":
        assert rising == pytest.approx([i / 20 for i in range(21)])


@pytest.mark.parametrize("name", list(SCHEDULES))
def test_the_shape_scales_with_the_run(name: str):
    optim = OptimConfig.model_validate({"name": "sgd", "lr": 0.4, "schedule": {"name": name, "warmup": 0.1}})
    short = [learning_rate(optim, i, 50) for i in range(50)]
    long = [learning_rate(optim, 4 * i, 200) for i in range(50)]
    assert short == long
    assert max(short) == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("options", "path", "word"),
    [
        ({"name": "cosine", "warmup": 1.0}, ("warmup",), "less than 1"),
        ({"name": "cosine", "floor": -0.1}, ("floor",), "greater than or equal to 0"),
        ({"name": "step", "milestones": [0.6, 0.3]}, ("milestones",), "ascend"),
        ({"name": "step", "milestones": [0.5, 0.5]}, ("milestones",), "ascend"),
        ({"name": "step", "milestones": [100]}, ("milestones", "0"), "less than 1"),
        ({"name": "cosin"}, (), "cosine"),
        ({"name": "cosine_restarts", "cycles": 0}, ("cycles",), "greater than or equal to 1"),
        ({"name": "cosine_restarts", "growth": 0.5}, ("growth",), "greater than or equal to 1"),
    ],
)
def test_bad_settings_are_refused_on_loading(options: dict, path: tuple[str, ...], word: str):
    with pytest.raises(ConfigError, match=word) as caught:
        SCHEDULES.spec(options)
    assert caught.value.path == path


def test_cosine_is_halfway_in_the_middle():
    assert cosine(0.55, warmup=0.1) == pytest.approx((1 + math.cos(math.pi / 2)) / 2)
