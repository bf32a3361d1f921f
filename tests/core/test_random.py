"""`Draws`: uniform, independent, and a pure function of their key."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from cifarlab.core.random import Draws, hash_ints, label_key, mix_bits, permutation

pytestmark = pytest.mark.quick

SIZE = 40_000


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    """The p-value of no correlation."""
    result: Any = stats.pearsonr(first, second)
    return result.pvalue


def numbers(seed: int = 0, epoch: int = 0, label: str = "part", skip: int = 0) -> np.ndarray:
    """Of consecutive samples, after `skip` earlier draws."""
    stream = Draws(seed, epoch, torch.arange(SIZE)).at(label)
    for _ in range(skip):
        stream.uniform()
    return stream.uniform().numpy()


def test_mix_is_splitmix64() -> None:
    gamma = 0x9E3779B97F4A7C15 - (1 << 64)
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    ours = mix_bits(torch.arange(1, 4) * gamma)
    assert [int(value) % (1 << 64) for value in ours] == published


def test_no_integer_lies_between_bounds_that_are_exchanged() -> None:
    with pytest.raises(ValueError, match="low=5 must be below high=-4"):
        Draws(0, 0, torch.arange(3)).integers(5, -4)


def test_the_numbers_never_change() -> None:
    """A change here changes every view of every run that anyone has recorded."""
    assert label_key("crop") == -1792330252851675775
    assert hash_ints(1, 2, 3) == 17824878756907967
    stream = Draws(3, 5, torch.tensor([0, 1, 49_999])).at("crop")
    assert stream.bits().tolist() == [-5856777772659891351, -6254555845859259783, 2504206902813074839]
    assert stream.integers(-4, 5).tolist() == [-3, -3, 0]
    assert permutation(3, 5, 8).tolist() == [0, 5, 6, 7, 2, 3, 4, 1]


def test_uniform() -> None:
    values = numbers()
    assert values.min() >= 0
    assert values.max() < 1
    assert stats.kstest(values, "uniform").pvalue > 1e-3
    # Every one of the 24 bits.
    whole = (values * 2**24).astype(np.int64)
    ones = [int(((whole >> bit) & 1).sum()) for bit in range(24)]
    assert min(stats.binomtest(count, SIZE).pvalue for count in ones) > 1e-4


def spread(number: int, low: float, high: float) -> float:
    """What `uniform` makes of its 24 random bits."""
    stream: Any = Draws(0, 0, torch.tensor([0]))
    stream.bits = lambda shape: torch.tensor([number << 40])  # Its upper bits; as int64 it wraps around.
    return stream.uniform(low, high).item()


@given(st.floats(-1e6, 1e6, width=32), st.floats(-1e6, 1e6, width=32), st.integers(-(2**23), 2**23 - 1))
@example(0.0, 1.0, -1)
@example(1.0, 2.0, -1)
@example(-0.5, 1.5, -1)
@example(0.5, 1.5, -1)
@example(2.0, 1.0, -1)
@example(1e6, 1e6 + 1, -4)
@example(0.5, 0.5, -1)
def test_a_uniform_number_never_reaches_its_upper_bound(low: float, high: float, number: int) -> None:
    value = spread(number, low, high)
    low, high = (float(np.float32(bound)) for bound in (low, high))
    assert min(low, high) <= value <= max(low, high)
    assert value != high or low == high
    # Nothing else about it changes: recorded views are made of it.
    plain = (torch.tensor(float(number % 2**24)) * (2.0**-24 * (high - low)) + low).item()
    assert value == plain or plain == high or (plain > high) == (low < high)


@pytest.mark.parametrize(("low", "high"), [(-1.8, -1.7), (-1.7, -1.9), (-1.3, -0.8), (-2.0, -1.9)])
def test_bounds_that_float32_does_not_hold(low: float, high: float) -> None:
    for number in (-1, -2, -3):
        value = spread(number, low, high)
        assert value != np.float32(high)
        assert (value < high) == (low < high)


def test_uniform_range_and_shape() -> None:
    values = Draws(0, 0, torch.arange(1000)).uniform(-2.0, 3.0, shape=(4, 2))
    assert values.shape == (1000, 4, 2)
    assert values.dtype == torch.float32
    assert values.min() >= -2
    assert values.max() <= 3
    assert stats.kstest(values.flatten().numpy(), stats.uniform(-2, 5).cdf).pvalue > 1e-3


@pytest.mark.parametrize(("low", "high"), [(0, 2), (-4, 5), (0, 24), (1, 1000)])
def test_integers(low: int, high: int) -> None:
    values = Draws(1, 2, torch.arange(SIZE)).integers(low, high)
    assert values.dtype == torch.int64
    counts = torch.bincount(values - low, minlength=high - low)
    assert len(counts) == high - low
    assert counts.min() > 0
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3


def test_bernoulli() -> None:
    stream = Draws(0, 0, torch.arange(SIZE))
    for p in (0.0, 0.1, 0.5, 0.9, 1.0):
        hits = int(stream.bernoulli(p).sum())
        assert stats.binomtest(hits, SIZE, p).pvalue > 1e-3


def test_normal() -> None:
    values = Draws(0, 0, torch.arange(SIZE)).normal().numpy()
    assert stats.kstest(values, "norm").pvalue > 1e-3


PAIRS = {
    "epochs": (numbers(epoch=0), numbers(epoch=1)),
    "distant epochs": (numbers(epoch=3), numbers(epoch=103)),
    "seeds": (numbers(seed=0), numbers(seed=1)),
    "seed and epoch exchanged": (numbers(seed=1, epoch=2), numbers(seed=2, epoch=1)),
    "labels": (numbers(label="a"), numbers(label="b")),
    "n": (numbers(), numbers(skip=1)),
    "n and the index exchanged": (numbers()[1:], numbers(skip=1)[:-1]),
    "neighbours": (numbers()[:-1], numbers()[1:]),
    "every second": (numbers()[:-2], numbers()[2:]),
}


@pytest.mark.parametrize("kind", PAIRS)
def test_no_correlation(kind: str) -> None:
    first, second = PAIRS[kind]
    assert _correlation(first, second) > 1e-3
    assert (first == second).sum() < 5
    table, _, _ = np.histogram2d(first, second, bins=16, range=[[0, 1], [0, 1]])
    assert stats.chisquare(table.flatten()).pvalue > 1e-3


def test_the_same_key_gives_the_same_numbers_in_any_company() -> None:
    indices = torch.tensor([5, 17, 4, 49_999, 0])
    together = Draws(7, 1, indices).at("crop").uniform(shape=(3,))
    for row, index in enumerate(indices):
        alone = Draws(7, 1, index[None]).at("crop").uniform(shape=(3,))
        assert torch.equal(alone[0], together[row])


def test_a_stream_does_not_notice_other_streams() -> None:
    draws = Draws(0, 0, torch.arange(10))
    expected = draws.at("b").uniform()
    busy = draws.at("a")
    for _ in range(5):
        busy.uniform()
    draws.uniform()
    assert torch.equal(draws.at("b").uniform(), expected)
    assert not torch.equal(draws.at("b").at("b").uniform(), expected)


def test_shapes_take_the_same_numbers_as_single_draws() -> None:
    def stream() -> Draws:
        return Draws(0, 0, torch.arange(10)).at("part")

    one_by_one = stream()
    singles = torch.stack([one_by_one.uniform() for _ in range(6)], dim=1)
    assert torch.equal(stream().uniform(shape=(2, 3)).flatten(1), singles)


def test_take_continues_the_stream_of_other_rows() -> None:
    stream = Draws(0, 0, torch.arange(100)).at("part")
    stream.uniform()
    rows = torch.tensor([9, 9, 0, 42])
    taken = stream.take(rows)
    assert len(taken) == 4
    assert torch.equal(taken.uniform(), stream.uniform()[rows])
    assert torch.equal(taken.at("x").uniform(), stream.at("x").uniform()[rows])


def test_of_epoch_is_the_stream_of_that_epoch_from_its_beginning() -> None:
    indices = torch.arange(50)
    stream = Draws(4, 7, indices).at("a").at("b")
    stream.uniform()
    assert (stream.epoch, stream.of_epoch(2).epoch) == (7, 2)
    assert torch.equal(stream.of_epoch(2).bits(), Draws(4, 2, indices).at("a").at("b").bits())
    rows = torch.tensor([3, 3, 0])
    taken = stream.take(rows).of_epoch(2).bits()
    assert torch.equal(taken, Draws(4, 2, indices).at("a").at("b").bits()[rows])


def test_permutation() -> None:
    order = permutation(0, 0, 50_000)
    assert torch.equal(order.sort().values, torch.arange(50_000))
    assert torch.equal(order, permutation(0, 0, 50_000))
    for other in (permutation(0, 1, 50_000), permutation(1, 0, 50_000)):
        assert _correlation(order.numpy(), other.numpy()) > 1e-3
        assert int((order == other).sum()) < 10
    assert _correlation(order.numpy(), np.arange(50_000)) > 1e-3


def _same(cpu: Tensor, cuda: Tensor) -> bool:
    return cuda.device.type == "cuda" and torch.equal(cpu, cuda.cpu())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_draws_the_same_numbers() -> None:
    indices = torch.arange(1000)
    cpu, cuda = Draws(0, 1, indices).at("part"), Draws(0, 1, indices.cuda()).at("part")
    assert _same(cpu.bits((2,)), cuda.bits((2,)))
    assert _same(cpu.uniform(-1.0, 1.0), cuda.uniform(-1.0, 1.0))
    assert _same(cpu.integers(0, 24), cuda.integers(0, 24))
    assert _same(permutation(0, 1, 50_000), permutation(0, 1, 50_000, device="cuda"))
