"""The protocol, the same for all claims: one difference a seed comes in, a verdict goes out.

The unit of replication is the seed. Suppose the claim says that the mean difference is greater than 0. With the
smallest effect of interest ``delta`` and the 95 % t-interval ``[low, high]`` the verdict is:

- supported: ``low > 0`` and ``mean >= delta``
- contradicted: ``high < delta``; reversed if ``high < 0`` too, else negligible
- inconclusive: otherwise

A claim of equality is supported if the interval lies within ``(-delta, delta)``, contradicted if it lies outside
(two one-sided tests; Schuirmann 1987). "At least" is supported if ``low > -delta``, contradicted if ``high < -delta``.
"Less" is "greater" for the negated differences.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bnexp.claims.declaration import FEWEST_SEEDS, Kind
from bnexp.compare.statistics import Interval, Paired, not_below, paired, pairs_needed, t_test, tost

SUPPORTED, CONTRADICTED, INCONCLUSIVE, NONE = "supported", "contradicted", "inconclusive", "no verdict"


@dataclass(frozen=True)
class Verdict:
    """A verdict and the numbers behind it.

    Attributes:
        word: supported, contradicted, inconclusive or no verdict.
        detail: reversed or negligible; why there is no verdict; or how many seeds would be needed.
        statistics: of the differences; None if there are no differences.
        p: two-sided sign-flip p; for an equality or an "at least", the p of the one-sided t-tests.
        t_p: the p of the t-test instead, which has no lower bound set by the number of seeds.
        needed: seeds that find an effect of delta with 80 % power at the observed sd.
    """

    word: str
    detail: str
    statistics: Paired | None
    p: float | None
    needed: int | None
    t_p: float | None = None


def judge(differences: Sequence[float], claims: Kind, delta: float) -> Verdict:
    """Apply the protocol to one difference a seed."""
    if not differences:
        return Verdict(NONE, "no seed has all values", None, None, None)
    statistics = paired(differences, [0.0] * len(differences))
    interval = statistics.interval
    one_sided = _one_sided(interval, claims, delta)
    p = statistics.p if one_sided is None else one_sided
    t_p = t_test(interval) if one_sided is None else one_sided
    needed = pairs_needed(delta / interval.sd, equivalence=claims == "equal") if interval.sd else None
    if interval.n < FEWEST_SEEDS:
        return Verdict(NONE, f"{interval.n} seeds; {FEWEST_SEEDS} are the fewest", statistics, p, needed, t_p)
    rule = _rule(interval, claims, delta)
    return Verdict(*(rule or (INCONCLUSIVE, _power(interval.n, needed))), statistics, p, needed, t_p)


def _one_sided(interval: Interval, claims: Kind, delta: float) -> float | None:
    if claims == "equal":
        return tost(interval, delta) if interval.sd is not None else None
    return not_below(interval, -delta) if claims == "at_least" and interval.sd is not None else None


def _rule(interval: Interval, claims: Kind, delta: float) -> tuple[str, str] | None:
    assert interval.low is not None
    assert interval.high is not None
    if claims == "equal":
        return _equal(interval.low, interval.high, delta)
    if claims == "at_least":
        return _at_least(interval.low, interval.high, delta)
    if claims == "less":
        return _greater(-interval.high, -interval.mean, -interval.low, delta)
    return _greater(interval.low, interval.mean, interval.high, delta)


def _greater(low: float, mean: float, high: float, delta: float) -> tuple[str, str] | None:
    if low > 0 and mean >= delta:
        return SUPPORTED, ""
    if high < delta:
        return CONTRADICTED, "reversed" if high < 0 else "negligible"
    return None


def _equal(low: float, high: float, delta: float) -> tuple[str, str] | None:
    if -delta < low and high < delta:
        return SUPPORTED, ""
    if low > delta or high < -delta:
        return CONTRADICTED, "higher" if low > delta else "lower"
    return None


def _at_least(low: float, high: float, delta: float) -> tuple[str, str] | None:
    if low > -delta:
        return SUPPORTED, ""
    return (CONTRADICTED, "lower") if high < -delta else None


def _power(n: int, needed: int | None) -> str:
    if needed is None:
        return "no affordable number of seeds would do"
    return f"n = {needed} to tell delta from 0" if needed > n else "near the threshold"
