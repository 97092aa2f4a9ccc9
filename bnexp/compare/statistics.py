"""The statistics of a comparison: intervals of a mean, paired differences, sign-flip tests, Holm's adjustment.

All of them are deterministic: what is resampled is resampled from a fixed seed. numpy and scipy are imported where they
are used, so that the command line stays quick.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

# All 2^n sign patterns are counted up to this n; beyond it, RESAMPLES random ones.
EXACT_UP_TO = 16
RESAMPLES = 99_999
# Where the search for a number of pairs ends: nobody runs more seeds than that.
MOST_PAIRS = 10_000
# With fewer values the values themselves are shown: an interval of two is some ten times as wide as their distance.
FEWEST = 4

Bounds = tuple[float, float]
UNBOUNDED: Bounds = (-math.inf, math.inf)


@dataclass(frozen=True)
class Interval:
    """A mean over n values with its confidence interval; what fewer than two values cannot tell is ``None``."""

    n: int
    mean: float
    sd: float | None
    low: float | None
    high: float | None


def columns(interval: Interval | None, prefix: str = "") -> dict[str, float | None]:
    """Mean, sd and both ends by name; all None where there is no interval."""
    return {prefix + name: getattr(interval, name) if interval else None for name in ("mean", "sd", "low", "high")}


@dataclass(frozen=True)
class Paired:
    """The differences of two arms over the n seeds that both have.

    Attributes:
        interval: mean difference with its t-interval.
        d_z: mean / sd of the differences (Cohen 1988), ``None`` where the sd is 0 or unknown.
        p: two-sided sign-flip p.
        bca: BCa bootstrap interval of the mean, as a check on the t-interval; ``None`` where it is undefined.
    """

    interval: Interval
    d_z: float | None
    p: float
    bca: tuple[float, float] | None


def mean_interval(values: Sequence[float], level: float = 0.95, *, bounds: Bounds = UNBOUNDED) -> Interval:
    """Mean and Student's t-interval: ``mean ± t_{n-1, (1+level)/2} sd / sqrt(n)``, with the sd over n - 1.

    What lies outside the values' bounds is cut off. The mean cannot lie there, so that the interval keeps its level.

    Raises:
        ValueError: no values.
    """
    n = len(values)
    if n == 0:
        raise ValueError("a mean of no values is not defined")
    mean = math.fsum(values) / n
    if n == 1:
        return Interval(n=1, mean=mean, sd=None, low=None, high=None)
    from scipy.special import stdtrit

    sd = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = float(stdtrit(n - 1, (1 + level) / 2)) * sd / math.sqrt(n)
    low, high = clipped(mean - half, mean + half, values, bounds)
    return Interval(n=n, mean=mean, sd=sd, low=low, high=high)


def clipped(low: float, high: float, values: Sequence[float], bounds: Bounds) -> tuple[float, float]:
    """What of a range lies within the bounds of the values; a value beyond a bound shows that it is none."""
    return max(low, min(bounds[0], *values)), min(high, max(bounds[1], *values))


def paired(
    treated: Sequence[float], baseline: Sequence[float], level: float = 0.95, *, bounds: Bounds = UNBOUNDED
) -> Paired:
    """Differences ``treated[s] - baseline[s]``, seed by seed, and what can be said of their mean.

    ``bounds`` are those of the values, and not of the differences.

    Raises:
        ValueError: no pairs, or sequences of different lengths.
    """
    differences = [a - b for a, b in zip(treated, baseline, strict=True)]
    interval = mean_interval(differences, level, bounds=(bounds[0] - bounds[1], bounds[1] - bounds[0]))
    return Paired(
        interval=interval,
        d_z=interval.mean / interval.sd if interval.sd else None,
        p=sign_flip(differences),
        bca=bca(differences, level),
    )


def sign_flip(differences: Sequence[float]) -> float:
    """Two-sided p of "the differences are symmetric about 0" (Fisher 1935).

    The share of sign patterns whose ``|sum|`` is at least the observed one: of all ``2^n`` for ``n <= EXACT_UP_TO``,
    else of ``RESAMPLES`` random ones and the observed one, so that p is never 0 (Phipson & Smyth 2010).
    """
    import numpy as np

    d_N = np.asarray(differences, dtype=np.float64)
    # Patterns that tie with the observed one exactly may differ from it by rounding.
    observed = abs(d_N.sum()) - 1e-12 * np.abs(d_N).sum()
    if len(d_N) > EXACT_UP_TO:
        return (1 + _random_flips_reaching(observed, differences)) / (1 + RESAMPLES)
    sums = np.zeros(1)
    for difference in d_N:
        sums = np.concatenate([sums + difference, sums - difference])
    return float(np.mean(np.abs(sums) >= observed))


def _random_flips_reaching(observed: float, differences: Sequence[float]) -> int:
    import numpy as np

    generator = np.random.default_rng(0)
    sums = np.zeros(RESAMPLES)
    for difference in differences:
        sums += np.where(generator.random(RESAMPLES) < 0.5, difference, -difference)
    return int(np.count_nonzero(np.abs(sums) >= observed))


def holm(ps: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment, which keeps the family-wise error rate (Holm 1979).

    The i-th smallest of m p-values becomes ``max over j <= i of min(1, (m - j + 1) p_(j))``.
    """
    adjusted = [0.0] * len(ps)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(ps)), key=lambda index: ps[index])):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[index]))
        adjusted[index] = largest
    return adjusted


def bca(values: Sequence[float], level: float = 0.95, resamples: int = 9999) -> tuple[float, float] | None:
    """Bias-corrected and accelerated bootstrap interval of the mean (Efron 1987).

    ``None`` for fewer than two values and for values that are all equal (or nearer than their squares can tell), where
    it is not defined.
    """
    import numpy as np
    from scipy.special import ndtr, ndtri

    x_N = np.asarray(values, dtype=np.float64)
    n = len(x_N)
    if n < 2 or np.ptp(x_N) < 1e-100:
        return None
    means = x_N[np.random.default_rng(0).integers(0, n, (resamples, n))].mean(axis=1)
    # Half of the ties count as below, as in scipy.stats.bootstrap.
    below = (np.mean(means < x_N.mean()) + np.mean(means <= x_N.mean())) / 2
    bias = ndtri(below)
    jackknife = (x_N.sum() - x_N) / (n - 1)
    spread = jackknife.mean() - jackknife
    acceleration = (spread**3).sum() / (6 * (spread**2).sum() ** 1.5)
    tail = ndtri((1 - level) / 2)
    shares = [ndtr(bias + (bias + z) / (1 - acceleration * (bias + z))) for z in (tail, -tail)]
    low, high = np.percentile(means, 100 * np.asarray(shares))
    return float(low), float(high)


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided exact p of "both fail equally often", from the pairs of which one alone failed (McNemar 1947).

    ``min(1, 2 P(X <= min))`` with X binomial over ``only_first + only_second`` tosses of a fair coin.
    """
    from scipy.special import bdtr

    tosses = only_first + only_second
    return min(1.0, 2 * float(bdtr(min(only_first, only_second), tosses, 0.5))) if tosses else 1.0


def tost(interval: Interval, margin: float) -> float:
    """The p of "the mean lies outside (-margin, margin)": the larger of two one-sided t-tests (Schuirmann 1987).

    Raises:
        ValueError: fewer than two values.
    """
    if interval.sd is None:
        raise ValueError("two one-sided tests need at least two values")
    if interval.sd == 0:
        return float(abs(interval.mean) >= margin)
    from scipy.special import stdtr

    return float(stdtr(interval.n - 1, (abs(interval.mean) - margin) / (interval.sd / math.sqrt(interval.n))))


def not_below(interval: Interval, bound: float) -> float:
    """One-sided p of "the mean is at most ``bound``", by the t-test; needs two values."""
    assert interval.sd is not None
    if interval.sd == 0:
        return float(interval.mean <= bound)
    from scipy.special import stdtr

    return float(stdtr(interval.n - 1, (bound - interval.mean) / (interval.sd / math.sqrt(interval.n))))


def t_test(interval: Interval) -> float | None:
    """Two-sided p of "the mean is 0", by Student's t-test; None for a single value."""
    if interval.sd is None:
        return None
    if interval.sd == 0:
        return float(interval.mean == 0)
    from scipy.special import stdtr

    return float(2 * stdtr(interval.n - 1, -abs(interval.mean) / (interval.sd / math.sqrt(interval.n))))


def pairs_needed(effect: float, power: float = 0.8, level: float = 0.95, *, equivalence: bool = False) -> int | None:
    """The smallest n at which a two-sided paired t-test finds a true effect with that power, by the noncentral t.

    Args:
        effect: in standard deviations of the differences.
        power: probability of finding it.
        level: 1 minus the error of the first kind.
        equivalence: n at which the interval lies within ``±effect`` when the true difference is 0.

    Returns:
        n, or None where ``MOST_PAIRS`` do not suffice.
    """
    import numpy as np
    from scipy.special import nctdtr, stdtr, stdtrit

    n_N = np.arange(2, MOST_PAIRS + 1)
    t_N, shift_N = stdtrit(n_N - 1, (1 + level) / 2), abs(effect) * np.sqrt(n_N)
    if equivalence:
        reached_N = 2 * stdtr(n_N - 1, shift_N - t_N) - 1 >= power
    else:
        reached_N = 1 - nctdtr(n_N - 1, shift_N, t_N) + nctdtr(n_N - 1, shift_N, -t_N) >= power
    return int(n_N[reached_N.argmax()]) if reached_N.any() else None
