"""Intervals, tests and power against scipy's own, against the definition, and by simulation."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from cifarlab.experiments import statistics
from cifarlab.experiments.statistics import (
    Difference,
    difference,
    estimate,
    holm,
    optimism,
    paired_difference,
    power,
    unpaired_difference,
)

pytestmark = pytest.mark.quick

SIMULATIONS = 10_000
# Simulated shares lie within 4 standard errors of the truth.
TOLERANCE = 4 / math.sqrt(SIMULATIONS)


def simulated(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal((SIMULATIONS, *shape))


@pytest.fixture
def fewer_resamples(monkeypatch):
    """10,000 bootstraps in seconds; their intervals are a little narrower for it."""
    monkeypatch.setattr(statistics, "RESAMPLES", 999)


def test_student_and_welch_are_scipys():
    ours, others = [0.31, 0.35, 0.33, 0.4], [0.3, 0.31, 0.33, 0.34]
    for found, truth in (
        (paired_difference(ours, others), stats.ttest_rel(ours, others)),
        (unpaired_difference(ours, others[:3]), stats.ttest_ind(ours, others[:3], equal_var=False)),
    ):
        interval = truth.confidence_interval(0.95)
        assert [found.low, found.high] == pytest.approx([interval.low, interval.high])
        assert found.p == pytest.approx(truth.pvalue)
        assert found.freedom == pytest.approx(truth.df)


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_no_difference_is_called_one_in_at_most_one_of_20(seeds, fewer_resamples):
    ours, others = simulated(seeds), simulated(seeds, seed=1)
    shared = simulated(1, seed=2)
    for found in (paired_difference(ours + shared, others + shared), unpaired_difference(ours, others)):
        called = found.shown().mean()
        # Welch of 3 seeds errs on the safe side: 3.3 %.
        assert 0.03 < called <= 0.057


@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_intervals_cover_as_they_say(seeds):
    if seeds == 10:
        # The whole number of resamples for fewer simulations: 9,999 x 10 x 3,000 draws.
        found = estimate(simulated(seeds)[:3000])
        assert abs(((found.low < 0) & (found.high > 0)).mean() - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 3000)
    else:
        found = estimate(5 + simulated(seeds))
        covered = ((found.low < 5) & (found.high > 5)).mean()
        assert abs(covered - 0.95) < 0.22 * TOLERANCE
    unpaired = unpaired_difference(1 + 3 * simulated(seeds), simulated(seeds + 3, seed=1))
    covered = ((unpaired.low < 1) & (unpaired.high > 1)).mean()
    # Welch's own approximation: at its worst where the smaller set spreads more, 93.2 % of 3 seeds.
    assert abs(covered - 0.95) < (0.02 if seeds == 3 else 0.01)


@pytest.mark.parametrize("method", ["percentile", "BCa"])
def test_a_plain_bootstrap_of_ten_is_too_narrow(method):
    found = stats.bootstrap(
        (simulated(10)[:1000],), np.mean, axis=-1, method=method, n_resamples=999, batch=50,
        rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    assert ((found.low < 0) & (found.high > 0)).mean() < 0.925


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("effect", [0.5, 1.0, 2.0])
def test_power_is_what_simulation_and_scipy_say(seeds, effect):
    differences = effect + simulated(seeds)
    p = paired_difference(differences, np.zeros(seeds)).p if seeds < 10 else None
    p = stats.ttest_1samp(differences, 0, axis=-1).pvalue if p is None else p
    predicted = power(effect * math.sqrt(seeds), seeds - 1)
    assert abs((p < 0.05).mean() - predicted) < TOLERANCE / 2
    by_scipy = stats.power(
        stats.ttest_1samp, lambda size: effect + np.random.default_rng(3).standard_normal(size), seeds,
        kwargs={"popmean": 0}, n_resamples=SIMULATIONS, significance=0.05,
    )  # fmt: skip
    assert abs(by_scipy.power - predicted) < TOLERANCE / 2


# By statsmodels 0.15: TTestPower and TTestIndPower().solve_power(nobs, power=0.8, alpha=0.05).
@pytest.mark.parametrize(
    ("seeds", "one_sample", "two_samples"),
    [(3, 3.264043552819638, 3.070892269599019), (5, 1.6819970833232674, 2.024440145655355),
     (10, 0.9960019107624178, 1.324947368330822)],
)  # fmt: skip
def test_the_smallest_difference_is_that_of_statsmodels(seeds, one_sample, two_samples):
    known = {"mean": 0, "low": 0, "high": 0, "p": 1}
    paired = Difference(
        paired=True, seeds=seeds, error=1 / math.sqrt(seeds), freedom=seeds - 1, spread=1, **known
    )
    assert paired.smallest() == pytest.approx(one_sample, rel=1e-6)
    freedom = 2 * seeds - 2
    two = Difference(
        paired=False, seeds=seeds, error=math.sqrt(2 / seeds), freedom=freedom, spread=math.sqrt(2), **known
    )
    assert two.smallest() == pytest.approx(two_samples, rel=1e-6)
    assert two.smallest(comparisons=5) > two.smallest()


def test_more_seeds_is_statsmodels_number():
    # solve_power(effect_size=0.5): 33.37 pairs, 63.77 of each kind.
    unknown = {"low": -1, "high": 2, "p": 0.5, "error": 1, "freedom": 4}
    pairs = Difference(paired=True, seeds=5, mean=-0.5, spread=1, **unknown)
    assert pairs.more_seeds() == 34 - 5
    sets = Difference(paired=False, seeds=5, mean=0.5, spread=math.sqrt(2), **unknown)
    assert sets.more_seeds() == 64 - 5
    assert (pairs.more_seeds(comparisons=3) or 0) > 34 - 5
    assert Difference(paired=True, seeds=5, mean=1e-4, spread=1, **unknown).more_seeds() is None


def test_the_smallest_difference_is_shown_four_times_of_five():
    found = [paired_difference(row, np.zeros(5)) for row in simulated(5)[:50]]
    # In units of the true deviation, which is 1; the sample's own deviates from it.
    smallest = statistics._noncentrality(4, 0.05) / math.sqrt(5)
    assert found[0].smallest() == pytest.approx(smallest * found[0].spread)
    shown = paired_difference(smallest + simulated(5), np.zeros(5)).shown().mean()
    assert abs(shown - 0.8) < 0.4 * TOLERANCE


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_the_closed_test_of_bonferroni(p):
    """By its definition: a hypothesis falls if every set that holds it falls by Bonferroni's test."""
    sets = [s for size in range(1, len(p) + 1) for s in itertools.combinations(range(len(p)), size)]
    for i, corrected in enumerate(holm(p)):
        truth = max(min(1.0, len(s) * min(p[j] for j in s)) for s in sets if i in s)
        assert corrected == pytest.approx(truth)


def test_seeds_are_paired_where_both_have_them():
    ours, others = {0: 0.5, 1: 0.6, 2: 0.7, 7: 0.9}, {2: 0.6, 0: 0.45, 1: 0.53}
    found = difference(ours, others)
    assert found.paired
    assert found.seeds == 3
    assert found.p == pytest.approx(stats.ttest_rel([0.5, 0.6, 0.7], [0.45, 0.53, 0.6]).pvalue)
    apart = difference({0: 0.5, 1: 0.6, 2: 0.7}, {2: 0.6, 3: 0.45, 4: 0.53})
    assert not apart.paired
    assert apart.seeds == 3
    truth = stats.ttest_ind([0.5, 0.6, 0.7], [0.6, 0.45, 0.53], equal_var=False)
    assert apart.p == pytest.approx(truth.pvalue)


@pytest.mark.parametrize("others", [{0: 0.1}, {3: 0.1}])
def test_one_seed_shows_nothing(others):
    found = difference({0: 0.9}, others)
    assert found.mean == pytest.approx(0.8)
    assert math.isnan(found.p)
    assert math.isnan(found.smallest())
    assert found.more_seeds() is None
    assert not found.shown()
    assert math.isnan(estimate([0.9]).sd)


def test_without_spread_nothing_is_shown():
    for make in (paired_difference, unpaired_difference):
        found = make([0.3, 0.4, 0.5] if make is paired_difference else [0.5] * 3, [0.2, 0.3, 0.4][:3])
        if make is unpaired_difference:
            found = make([0.5] * 3, [0.4] * 3)
        assert found.mean == pytest.approx(0.1)
        assert found.p == 1
        assert not found.shown()
        assert found.more_seeds() is None


@pytest.mark.parametrize(("slope", "excess"), [(0.0, 0.1), (0.1, 0.15), (0.5, 0.45)])
def test_optimism_is_the_luck_of_the_best_epoch_or_a_little_more(slope, excess):
    epochs = np.arange(20)
    truth = slope * epochs
    curves = truth + simulated(20)[:2000]
    found = np.mean([optimism(curve) or np.nan for curve in curves])
    true = np.mean([curve.max() - truth[curve.argmax()] for curve in curves])
    assert true < found < (1 + excess) * true
    assert optimism([0.1] * 6) is None
