"""The statistics of a comparison: intervals of a mean, paired differences, sign-flip tests, Holm's adjustment, power.

All of them are deterministic: what is resampled is resampled from a fixed seed. numpy and scipy are imported where they
are used, so that the command line stays quick.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# All 2^n sign patterns are counted up to this n; beyond it, RESAMPLES random ones.
EXACT_UP_TO = 16
RESAMPLES = 99_999
# Where the search for a number of pairs ends: nobody runs more seeds than that.
MOST_PAIRS = 10_000
# With fewer values the values themselves are shown: an interval of two is some ten times as wide as their distance.
FEWEST = 4

# How finely the unknown standard deviation is summed over where the chance of a verdict is computed.
_QUANTILES = 400

Bounds = tuple[float, float]
Alternative = Literal["two-sided", "greater", "less"]
UNBOUNDED: Bounds = (-math.inf, math.inf)


@dataclass(frozen=True)
class Interval:
    """A mean over n values with its confidence interval; what fewer than two values cannot tell is ``None``."""

    n: int
    mean: float
    sd: float | None
    low: float | None
    high: float | None

    @property
    def d_z(self) -> float | None:
        """Mean / sd (Cohen 1988); ``None`` where the sd is 0 or unknown."""
        return self.mean / self.sd if self.sd else None


def columns(interval: Interval | None, prefix: str = "") -> dict[str, float | None]:
    """Mean, sd and both ends by name; all None where there is no interval."""
    return {prefix + name: getattr(interval, name) if interval else None for name in ("mean", "sd", "low", "high")}


@dataclass(frozen=True)
class Resolution:
    """How finely numbers are known that lie on a grid: how far their mean may lie from the true one.

    Attributes:
        each: how far each number may lie off.
        runs: half a run for each share of runs, such as of those that train: more runs tell a share more finely.
    """

    each: float = 0.0
    runs: float = 0.0

    def of(self, n: int) -> float:
        """Of the mean of n numbers."""
        return self.each + self.runs / n


EXACT = Resolution()


@dataclass(frozen=True)
class HodgesLehmann:
    """The median of all averages of two values, with its exact signed-rank interval; see ``hodges_lehmann``."""

    estimate: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Paired:
    """The differences of two arms over the n seeds that both have.

    Attributes:
        interval: mean difference with its t-interval.
        p: two-sided sign-flip p.
        robust: the companion of the mean that one seed cannot move far.
    """

    interval: Interval
    p: float
    robust: HodgesLehmann


def mean_interval(
    values: Sequence[float], level: float = 0.95, *, bounds: Bounds = UNBOUNDED, resolution: float = 0.0
) -> Interval:
    """Mean and Student's t-interval: ``mean ± t_{n-1, (1+level)/2} sd / sqrt(n)``, with the sd over n - 1.

    What lies outside the values' bounds is cut off. The mean cannot lie there, so that the interval keeps its level.

    Args:
        values: n numbers.
        level: of the interval.
        bounds: of the values.
        resolution: how far each value may lie from the true one; the interval is wider by that at each end.

    Raises:
        ValueError: no values.
    """
    n = len(values)
    if n == 0:
        raise ValueError("a mean of no values is not defined")
    mean = values[0] if len(set(values)) == 1 else math.fsum(values) / n  # equal values differ by no rounding
    if n == 1:
        return Interval(n=1, mean=mean, sd=None, low=None, high=None)
    from scipy.special import stdtrit

    sd = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = float(stdtrit(n - 1, (1 + level) / 2)) * sd / math.sqrt(n) + resolution
    low, high = clipped(mean - half, mean + half, values, bounds)
    return Interval(n=n, mean=mean, sd=sd, low=low, high=high)


def clipped(low: float, high: float, values: Sequence[float], bounds: Bounds) -> tuple[float, float]:
    """What of a range lies within the bounds of the values; a value beyond a bound shows that it is none."""
    return max(low, min(bounds[0], *values)), min(high, max(bounds[1], *values))


def paired(treated: Sequence[float], baseline: Sequence[float], *, bounds: Bounds = UNBOUNDED) -> Paired:
    """Differences ``treated[s] - baseline[s]``, seed by seed, and what can be said of their mean.

    ``bounds`` are those of the values, and not of the differences.

    Raises:
        ValueError: no pairs, or sequences of different lengths.
    """
    differences = [a - b for a, b in zip(treated, baseline, strict=True)]
    off = rounding([*treated, *baseline])
    interval = mean_interval(differences, bounds=(bounds[0] - bounds[1], bounds[1] - bounds[0]))
    if interval.sd is not None and interval.sd <= off:  # the differences are equal, but for their rounding
        interval = replace(interval, sd=0.0)
    if abs(interval.mean) <= off:
        interval = replace(interval, mean=0.0)
    return Paired(
        interval=interval,
        p=sign_flip(differences, off=off),
        robust=hodges_lehmann(differences),
    )


def rounding(numbers: Iterable[float]) -> float:
    """How far a sum of differences may be off, because the numbers that they were taken of have been rounded."""
    return 4 * sys.float_info.epsilon * math.fsum(map(abs, numbers))


def sign_flip(
    differences: Sequence[float], null: float = 0.0, alternative: Alternative = "two-sided", *, off: float = 0.0
) -> float:
    """Exact p of "the differences are symmetric about ``null``" (Fisher 1935).

    The share of sign patterns of ``differences - null`` whose sum lies at least as far out as the observed one: of all
    ``2^n`` for ``n <= EXACT_UP_TO``, else of ``RESAMPLES`` random ones and the observed one, so that p is never 0
    (Phipson & Smyth 2010). Where the null is 0, arms that can be exchanged suffice for the symmetry.

    Args:
        differences: n numbers.
        null: the centre.
        alternative: "greater" counts only sums as large as the observed one, "less" only sums as small.
        off: how far a sum may be off, so that equal sums count as equal; see ``rounding``.
    """
    import numpy as np

    d_N = (np.asarray(differences, dtype=np.float64) - null) * (-1 if alternative == "less" else 1)
    # Patterns that tie with the observed one exactly may differ from it by rounding.
    apart = 2 * off + 1e-12 * (np.abs(d_N).sum() + abs(null) * len(d_N))
    if alternative == "two-sided":
        return _share_reaching(d_N, abs(d_N.sum()) - apart, both=True)
    return _share_reaching(d_N, d_N.sum() - apart, both=False)


def _share_reaching(d_N: NDArray[np.float64], least: float, *, both: bool) -> float:
    """The share of sign patterns whose sum, or with ``both`` the size of it, is at least ``least``."""
    import numpy as np

    if len(d_N) <= EXACT_UP_TO:
        sums = _sums_of_signs(d_N)
        return float(np.mean((np.abs(sums) if both else sums) >= least))
    generator = np.random.default_rng(0)
    sums = np.zeros(RESAMPLES)
    for first in range(0, len(d_N), 8):  # a random byte has the signs of eight differences
        some = _sums_of_signs(d_N[first : first + 8])
        sums += some[generator.integers(len(some), size=RESAMPLES, dtype=np.uint8)]
    return float(1 + np.count_nonzero((np.abs(sums) if both else sums) >= least)) / (1 + RESAMPLES)


def _sums_of_signs(d_N: NDArray[np.float64]) -> NDArray[np.float64]:
    """The sums of all 2^n sign patterns."""
    import numpy as np

    sums = np.zeros(1)
    for difference in d_N:
        sums = np.concatenate([sums + difference, sums - difference])
    return sums


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


def hodges_lehmann(values: Sequence[float], level: float = 0.95) -> HodgesLehmann:
    """The median of the averages of all pairs of values, each with itself too (Hodges & Lehmann 1963).

    It estimates the centre of a symmetric law, and one value can move it only as far as the others lie apart. The
    interval holds the centres that the exact signed-rank test does not reject (Tukey 1949); with fewer than six values
    no interval of 95 % exists.

    Raises:
        ValueError: no values.
    """
    import numpy as np

    x_N = np.asarray(values, dtype=np.float64)
    if not len(x_N):
        raise ValueError("the centre of no values is not defined")
    averages = np.sort(((x_N[:, None] + x_N) / 2)[np.triu_indices(len(x_N))])
    left_out = _ranks_left_out(len(x_N), level)
    if left_out is None:
        return HodgesLehmann(float(np.median(averages)), None, None)
    return HodgesLehmann(float(np.median(averages)), float(averages[left_out]), float(averages[-1 - left_out]))


@lru_cache
def _ranks_left_out(n: int, level: float) -> int | None:
    """How many averages lie outside the interval at each end: the largest k with ``P(W <= k) <= (1 - level) / 2``.

    W is the sum of the ranks 1 to n that get a plus from n tosses of a fair coin.
    """
    import numpy as np

    chances = np.zeros(n * (n + 1) // 2 + 1)
    chances[0] = 1
    for rank in range(1, n + 1):
        chances[rank:] += chances[:-rank].copy()
        chances /= 2
    below = int(np.searchsorted(np.cumsum(chances), (1 - level) / 2 + 1e-12, side="right"))
    return below - 1 if below else None


def mcnemar(only_first: int, only_second: int) -> float:
    """Two-sided exact p of "both fail equally often", from the pairs of which one alone failed (McNemar 1947).

    ``min(1, 2 P(X <= min))`` with X binomial over ``only_first + only_second`` tosses of a fair coin.
    """
    from scipy.special import bdtr

    tosses = only_first + only_second
    return min(1.0, 2 * float(bdtr(min(only_first, only_second), tosses, 0.5))) if tosses else 1.0


@dataclass(frozen=True)
class Region:
    """The t-intervals of a level that lie above ``low_above`` and below ``high_below``, with a mean from ``mean_from``.

    Such intervals make a verdict: the mean is larger than ``low_above``, and smaller than ``high_below``.
    """

    low_above: float = -math.inf
    high_below: float = math.inf
    mean_from: float = -math.inf
    level: float = 0.95

    @property
    def left(self) -> tuple[bool, bool]:
        """Whether intervals leave the region if they move down, and if they move up."""
        return max(self.low_above, self.mean_from) > -math.inf, self.high_below < math.inf

    def holds(self, low: float, mean: float, high: float) -> bool:
        """Whether an interval is one of them."""
        return low > self.low_above and high < self.high_below and mean >= self.mean_from

    def p(self, differences: Sequence[float], off: float = 0.0, resolution: float = 0.0) -> float:
        """Sign-flip p of "the mean is not as these intervals say".

        At 95 % it is two-sided, and at 90 % one-sided, so that 0.05 is the limit of both; of two bounds the larger p.
        ``off``: see ``sign_flip``; ``resolution``: how far the mean may lie from the true one, see ``Resolution``.
        """
        sides = 2 if self.level == 0.95 else 1
        low, high = self.low_above + resolution, self.high_below - resolution
        below = sign_flip(differences, low, "greater", off=off) if math.isfinite(low) else 0.0
        above = sign_flip(differences, high, "less", off=off) if math.isfinite(high) else 0.0
        return min(1.0, sides * max(below, above))


def chance(region: Region, n: int, effect: float, sd: float, resolution: float = 0.0) -> float:
    """How likely the interval of n normal differences lies in a region.

    Given the sample's sd, the mean must lie between two ends; what is left is a sum over quantiles of that sd.

    Args:
        region: of intervals.
        n: how many differences, two or more.
        effect: their true mean.
        sd: their true standard deviation, above 0.
        resolution: see ``mean_interval``.
    """
    import numpy as np
    from scipy.special import ndtr

    half_Q = sd * _half_widths(n, region.level) + resolution
    from_Q = np.maximum(region.mean_from, region.low_above + half_Q)
    to_Q = region.high_below - half_Q
    scale = math.sqrt(n) / sd
    between_Q = ndtr((to_Q - effect) * scale) - ndtr((from_Q - effect) * scale)
    return float(np.mean(np.maximum(between_Q, 0)))


@lru_cache(maxsize=512)
def _half_widths(n: int, level: float) -> NDArray[np.float64]:
    """Quantiles of half the width of a t-interval, where the true sd is 1."""
    import numpy as np
    from scipy.special import gammaincinv, stdtrit

    shares_Q = (np.arange(_QUANTILES) + 0.5) / _QUANTILES
    error_Q = np.sqrt(2 * gammaincinv((n - 1) / 2, shares_Q) / (n - 1) / n)
    half_Q: NDArray[np.float64] = stdtrit(n - 1, (1 + level) / 2) * error_Q
    return half_Q


def pairs_needed(
    region: Region, effect: float, sd: float, *, power: float = 0.8, resolution: Resolution = EXACT
) -> int | None:
    """The smallest n at which the interval lies in a region with that chance; None where ``MOST_PAIRS`` do not suffice.

    The chance rises with n wherever it reaches so much at all, so that n is found by halving.
    """
    low, high = 1, MOST_PAIRS
    if not sd or chance(region, high, effect, sd, resolution.of(high)) < power:
        return None
    while high - low > 1:
        middle = (low + high) // 2
        enough = chance(region, middle, effect, sd, resolution.of(middle)) >= power
        low, high = (low, middle) if enough else (middle, high)
    return high
