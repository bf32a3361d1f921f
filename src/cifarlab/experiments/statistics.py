"""Statistics of scores over seeds: intervals, differences, power. Distributions are scipy's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, cast

import numpy as np
import scipy.optimize  # pyright: ignore[reportMissingTypeStubs]
import scipy.stats  # pyright: ignore[reportMissingTypeStubs]
from numpy.typing import ArrayLike

# scipy has no types.
optimize, stats = cast("Any", scipy.optimize), cast("Any", scipy.stats)

SIGNIFICANCE = 0.05
POWER = 0.8
BOOTSTRAP_FROM = 10
RESAMPLES = 9999
# The search for a sufficient number of seeds ends here.
MOST_SEEDS = 1000
# A smaller standard deviation is rounding error, and no test is based on it.
ROUNDING = 1e-9
# Number of epochs around the chosen one that the curve is fitted to.
NEIGHBOURS = 6


@dataclass(frozen=True)
class Estimate:
    """The estimated mean of scores over seeds.

    The fields other than `n` are arrays if several sets of scores were given. `sd`, `low` and `high` are nan
    for one seed.

    Attributes:
        n: Number of seeds.
        mean: Mean.
        sd: Standard deviation of the scores.
        low: Lower end of the mean's 95 % interval.
        high: Upper end of the mean's 95 % interval.
    """

    n: int
    mean: Any
    sd: Any
    low: Any
    high: Any


@dataclass(frozen=True)
class Difference:
    """The difference between the means of two sets of scores.

    `low`, `high`, `p`, `error`, `freedom` and `spread` are nan for one seed.

    Attributes:
        paired: Whether the scores were compared seed by seed.
        seeds: Number of pairs. If unpaired, the smaller of the two numbers of seeds.
        mean: The difference: the first mean minus the second.
        low: Lower end of its 95 % interval.
        high: Upper end of its 95 % interval.
        p: The p-value of the hypothesis that there is no difference.
        error: Standard error of `mean`.
        freedom: Degrees of freedom of `error`.
        spread: Standard deviation of the difference between single seeds of the two sets.
    """

    paired: bool
    seeds: int
    mean: Any
    low: Any
    high: Any
    p: Any
    error: Any
    freedom: Any
    spread: Any

    def shown(self, p: Any = None) -> Any:
        """Tell whether p is below 0.05 and the interval excludes 0.

        Args:
            p: A p-value corrected for several comparisons. Default: the uncorrected p-value.
        """
        p = self.p if p is None else p
        return (p < SIGNIFICANCE) & ((self.low > 0) | (self.high < 0))

    def smallest(self, comparisons: int = 1) -> float:
        """Return the smallest true difference that is significant with probability 0.8.

        It holds for the number of seeds that were compared. nan for one seed.

        Args:
            comparisons: Number of comparisons. The significance level of 5 % is divided by it, as in the
                strictest step of Holm's correction.
        """
        if math.isnan(self.freedom):
            return math.nan
        return self.error * _noncentrality(self.freedom, SIGNIFICANCE / comparisons)

    def more_seeds(self, comparisons: int = 1) -> int | None:
        """Return how many more seeds would make this difference significant.

        With that many, it is significant with probability 0.8 if its true value is `mean`. None if more than
        1,000 seeds in total are needed, or the number is unknown.

        Args:
            comparisons: Number of comparisons, as for `smallest`.
        """
        if not self.spread > ROUNDING:
            return None
        seeds = np.arange(self.seeds + 1, MOST_SEEDS + 1)
        freedom = seeds - 1 if self.paired else 2 * (seeds - 1)
        reached = power(abs(self.mean) / self.spread * np.sqrt(seeds), freedom, SIGNIFICANCE / comparisons)
        return int(np.argmax(reached >= POWER)) + 1 if reached.size and reached[-1] >= POWER else None


def estimate(values: ArrayLike) -> Estimate:
    """Estimate the mean of values (..., n) over the last axis."""
    values = np.asarray(values, dtype=np.float64)
    n, mean = values.shape[-1], values.mean(-1)
    if n == 1:
        unknown = np.full_like(mean, np.nan)
        return Estimate(1, mean, unknown, unknown, unknown)
    return Estimate(n, mean, values.std(-1, ddof=1), *_interval(values))


def paired_difference(ours: ArrayLike, others: ArrayLike) -> Difference:
    """Compare scores (..., n) seed by seed, by Student's t test."""
    differences = np.asarray(ours, dtype=np.float64) - np.asarray(others, dtype=np.float64)
    found = estimate(differences)
    n = found.n
    if n == 1:
        unknown = math.nan
        return Difference(True, 1, found.mean, unknown, unknown, unknown, unknown, unknown, unknown)
    error = found.sd / math.sqrt(n)
    return Difference(
        True, n, found.mean, found.low, found.high, _p(found.mean, error, n - 1), error, n - 1, found.sd
    )


def unpaired_difference(ours: ArrayLike, others: ArrayLike) -> Difference:
    """Compare scores (..., n) and (..., m) by Welch's t test (1947).

    Seeds are not paired. n and m are at least 2.
    """
    ours, others = np.asarray(ours, dtype=np.float64), np.asarray(others, dtype=np.float64)
    sizes = ours.shape[-1], others.shape[-1]
    variances = ours.var(-1, ddof=1), others.var(-1, ddof=1)
    shares = [variance / n for variance, n in zip(variances, sizes, strict=True)]
    # The added terms avoid 0 / 0 if the scores have no variance.
    tiny = ROUNDING**2
    freedom = (sum(shares) + tiny) ** 2 / sum(
        (share + tiny / 2) ** 2 / (n - 1) for share, n in zip(shares, sizes, strict=True)
    )
    error = np.sqrt(sum(shares))
    mean = ours.mean(-1) - others.mean(-1)
    half = stats.t.ppf(1 - SIGNIFICANCE / 2, freedom) * error
    p = _p(mean, error, freedom)
    return Difference(
        False, min(sizes), mean, mean - half, mean + half, p, error, freedom, np.sqrt(sum(variances))
    )


def difference(ours: Mapping[int, float], others: Mapping[int, float]) -> Difference:
    """Compare scores by seed: paired if they share seeds, else unpaired.

    If both have at least two seeds in common, the scores of these are compared in pairs. Otherwise, all
    scores are compared unpaired, if both have several. If one has a single score, only `mean` is known: the
    difference at the shared seed, or of the mean scores if no seed is shared. Pairing is valid even if the
    scores of a seed are uncorrelated: it only costs degrees of freedom.
    """
    common = sorted(ours.keys() & others.keys())
    if len(common) > 1 or not (len(ours) > 1 and len(others) > 1):
        seeds = common or [None]
        pairs = [
            (ours[seed], others[seed]) if seed is not None else (_mean(ours), _mean(others)) for seed in seeds
        ]
        return paired_difference(*zip(*pairs, strict=True))
    return unpaired_difference([*ours.values()], [*others.values()])


def _mean(scores: Mapping[int, float]) -> float:
    return sum(scores.values()) / len(scores)


def _interval(values: np.ndarray) -> tuple[Any, Any]:
    """Return the 95 % interval of the mean.

    Below 10 seeds it is Student's. From 10 seeds on it is an expanded percentile bootstrap.

    The plain percentile and BCa intervals of 10 values cover 90 %, not 95. Hesterberg (2015, "What teachers
    should know about the bootstrap") widens the percentiles by the ratio of Student's t to the normal.
    """
    n = values.shape[-1]
    quantile = stats.t.ppf(1 - SIGNIFICANCE / 2, n - 1)
    if n < BOOTSTRAP_FROM:
        mean, half = values.mean(-1), quantile * values.std(-1, ddof=1) / math.sqrt(n)
        return mean - half, mean + half
    level = float(2 * stats.norm.cdf(quantile * math.sqrt(n / (n - 1))) - 1)
    found = stats.bootstrap(
        (values,), np.mean, axis=-1, confidence_level=level, method="percentile", n_resamples=RESAMPLES,
        batch=max(1, 10**6 // values.size), rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    return found.low, found.high


def _p(mean: Any, error: Any, freedom: Any) -> Any:
    """Return p of Student's two-sided t test; 1 without variance."""
    known = error > ROUNDING
    t = np.divide(np.abs(mean), error, out=np.zeros_like(np.asarray(mean)), where=known)
    return 2 * stats.t.sf(t, freedom)


def power(noncentrality: Any, freedom: Any, significance: float = SIGNIFICANCE) -> Any:
    """Return the probability that a two-sided t test finds a difference significant.

    Args:
        noncentrality: The true difference, in standard errors.
        freedom: Degrees of freedom.
        significance: Significance level.
    """
    # The square of a noncentral t is a noncentral F. Its single tail is computed by scipy even if t's other
    # tail is too small. scipy cannot compute it at a noncentrality of 0.
    critical = stats.f.isf(significance, 1, freedom)
    return stats.ncf.sf(critical, 1, freedom, np.maximum(noncentrality, 1e-6) ** 2)


@cache
def _noncentrality(freedom: float, significance: float) -> float:
    """Return the true difference, in standard errors, that has power 0.8."""
    critical = float(stats.t.ppf(1 - significance / 2, freedom))

    def excess(errors: float) -> float:
        return power(errors, freedom, significance) - POWER

    return optimize.brentq(excess, 0, 5 * critical + 5)


def holm(p: Sequence[float]) -> list[float]:
    """Correct p-values for multiple testing (Holm 1979).

    If corrected p-values below 0.05 count as findings, the probability of any false finding is at most 5 %.
    """
    order = np.argsort(p)
    raised = np.asarray(p, dtype=np.float64)[order] * np.arange(len(p), 0, -1)
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(np.maximum.accumulate(raised), 1)
    return corrected.tolist()


def optimism(scores: Sequence[float]) -> float | None:
    """Estimate how far the best epoch's score exceeds its expected score.

    The expected score is that of a line fitted to the six nearest epochs, without the best one. The estimate
    is an upper bound, because the weights of the best epoch may really be a little better than those of its
    neighbours. On a curve that still rises steeply at its end it is up to 40 % too high. None for fewer than
    seven epochs.

    Args:
        scores: Score of each epoch, in order.
    """
    if len(scores) <= NEIGHBOURS:
        return None
    best = int(np.argmax(scores))
    first = min(max(best - NEIGHBOURS // 2, 0), len(scores) - NEIGHBOURS - 1)
    epochs = np.array([epoch for epoch in range(first, first + NEIGHBOURS + 1) if epoch != best])
    line = np.polynomial.Polynomial.fit(epochs, np.asarray(scores)[epochs], 1)
    return float(scores[best] - line(best))
