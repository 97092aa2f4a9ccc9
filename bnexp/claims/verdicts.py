"""The protocol: differences of paired seeds in, a verdict out. The same for all claims.

The unit of replication is the seed. Let the claim say that the mean difference is greater than 0, with the smallest
effect of interest ``delta`` and the 95 % t-interval ``[low, high]``:

- supported: ``low > 0`` and ``mean >= delta``
- contradicted: ``high < delta``; reversed if ``high < 0`` too, else negligible
- inconclusive: everything else

A claim of equality is supported if the interval lies within ``(-delta, delta)``, contradicted if it lies outside
(two one-sided tests; Schuirmann 1987). "Less" is "greater" of the negated differences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from bnexp.claims.declaration import FEWEST_SEEDS
from bnexp.statistics import Paired, paired, pairs_needed, tost

SUPPORTED, CONTRADICTED, INCONCLUSIVE, NONE = "supported", "contradicted", "inconclusive", "no verdict"


@dataclass(frozen=True)
class Verdict:
    """A verdict and the numbers behind it.

    Attributes:
        word: supported, contradicted, inconclusive or no verdict.
        detail: reversed or negligible; why there is no verdict; the number of seeds that would be needed.
        statistics: of the differences; None without any.
        p: two-sided sign-flip p, or of an equality that of the two one-sided tests.
        needed: seeds for 80 % power to find delta at the observed sd.
    """

    word: str
    detail: str
    statistics: Paired | None
    p: float | None
    needed: int | None


def judge(differences: Sequence[float], claims: Literal["greater", "less", "equal"], delta: float) -> Verdict:
    """Apply the protocol to one difference a seed."""
    if not differences:
        return Verdict(NONE, "no seed has all values", None, None, None)
    statistics = paired(differences, [0.0] * len(differences))
    interval = statistics.interval
    p = tost(interval, delta) if claims == "equal" and interval.sd is not None else statistics.p
    needed = pairs_needed(delta / interval.sd, equivalence=claims == "equal") if interval.sd else None
    if interval.n < FEWEST_SEEDS:
        return Verdict(NONE, f"{interval.n} seeds; {FEWEST_SEEDS} are the fewest", statistics, p, needed)
    assert interval.low is not None
    assert interval.high is not None
    low, high = (-interval.high, -interval.low) if claims == "less" else (interval.low, interval.high)
    mean = -interval.mean if claims == "less" else interval.mean
    rule = _equal(low, high, delta) if claims == "equal" else _greater(low, mean, high, delta)
    return Verdict(*(rule or (INCONCLUSIVE, _power(interval.n, needed))), statistics, p, needed)


def _greater(low: float, mean: float, high: float, delta: float) -> tuple[str, str] | None:
    if low > 0 and mean >= delta:
        return SUPPORTED, ""
    if high < delta:
        return CONTRADICTED, "reversed" if high < 0 else "negligible"
    return None


def _equal(low: float, high: float, delta: float) -> tuple[str, str] | None:
    if -delta < low and high < delta:
        return SUPPORTED, ""
    return (CONTRADICTED, "different") if low > delta or high < -delta else None


def _power(n: int, needed: int | None) -> str:
    if needed is None:
        return "no affordable number of seeds would do"
    return f"n = {needed} for 80 % power" if needed > n else "near the threshold"
