"""The protocol, the same for all claims: one difference a seed comes in, a verdict goes out.

The unit of replication is the seed. The differences have a mean and a t-interval ``[low, high]``, and a claim names the
smallest effect of interest ``delta``. A claim that the mean is greater than 0 gets the first verdict that fits:

- contradicted (reversed): ``high < 0``
- negligible: ``high < delta``
- supported: ``low > delta``
- supported (size open): ``low > 0`` and ``mean >= delta``
- inconclusive: otherwise

"Less" is "greater" for the negated differences. "Exceeds" is for sentences with a number: ``low > delta`` supports it,
``high < delta`` contradicts it. These three have an interval of 95 %. Equality and "at least" have one of 90 %, which
makes them one-sided tests at 5 % (Schuirmann 1987): an equality is supported within ``(-delta, delta)``; "at least" is
supported above ``-delta`` and contradicted below. An equality is contradicted where the interval of 95 % lies outside,
since it can be wrong on either side. The p of a verdict is the sign-flip p of its own null hypothesis, such as "the
mean is at least delta" for negligible.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from bnexp.claims.declaration import FEWEST_SEEDS, Kind
from bnexp.compare.statistics import (
    EXACT,
    UNBOUNDED,
    Bounds,
    HodgesLehmann,
    Interval,
    Region,
    Resolution,
    clipped,
    hodges_lehmann,
    mean_interval,
    pairs_needed,
)

SUPPORTED, CONTRADICTED, NEGLIGIBLE = "supported", "contradicted", "negligible"
INCONCLUSIVE, NONE = "inconclusive", "no verdict"
DECIDED = (SUPPORTED, CONTRADICTED, NEGLIGIBLE)
# The level of the interval that is told for each kind.
LEVELS: Mapping[Kind, float] = {"greater": 0.95, "less": 0.95, "exceeds": 0.95, "equal": 0.9, "at_least": 0.9}
# The true effect, in deltas, for which the seeds of a verdict are told beside those for the effect seen. An effect of
# exactly delta is supported in half of all suites, however many seeds there are, since its mean is as often below.
MATTERS: Mapping[Kind, float] = {"greater": 1.5, "less": 1.5, "exceeds": 1.5, "equal": 0.0, "at_least": 0.0}


@dataclass(frozen=True)
class Rule:
    """A verdict, and the intervals that make it."""

    word: str
    detail: str
    region: Region


@dataclass(frozen=True)
class Verdict:
    """A verdict and the numbers behind it.

    Attributes:
        word: supported, contradicted, negligible, inconclusive or no verdict.
        detail: which way it is contradicted; whether the size is open; why there is no verdict.
        interval: of the differences; None if there are none.
        p: sign-flip p of the verdict's own null hypothesis; without a verdict, of the claim's.
        robust: the Hodges-Lehmann estimate of the differences, with its interval.
        robust_word: the verdict that the robust interval would make by the same rule.
        hangs_on: the places of the differences without each of which the word is another one.
        needed: seeds that bring a verdict with a chance of 80 % if the true effect and sd are those seen.
        needed_for_delta: the same if the effect is ``MATTERS`` deltas.
        moved: whether smaller differences, and whether larger ones, could make another verdict.
    """

    word: str
    detail: str
    interval: Interval | None = None
    p: float | None = None
    robust: HodgesLehmann | None = None
    robust_word: str | None = None
    hangs_on: Sequence[int] = ()
    needed: int | None = None
    needed_for_delta: int | None = None
    moved: tuple[bool, bool] = (True, True)


def judge(
    differences: Sequence[float],
    claims: Kind,
    delta: float,
    *,
    bounds: Bounds = UNBOUNDED,
    resolution: Resolution = EXACT,
    off: float = 0.0,
) -> Verdict:
    """Apply the protocol to one difference a seed.

    Args:
        differences: a number a seed.
        claims: what is claimed of their mean.
        delta: the smallest effect of interest.
        bounds: between which a difference must lie.
        resolution: of the differences.
        off: see ``sign_flip``.
    """
    if not differences:
        return Verdict(NONE, "no seed has all values")
    if claims == "less":
        mirrored = _mirrored(bounds)
        return _negated(
            judge([-d for d in differences], "greater", delta, bounds=mirrored, resolution=resolution, off=off)
        )
    rules, level, coarse = rules_of(claims, delta), LEVELS[claims], resolution.of(len(differences))
    of_mean = partial(_of_mean, differences, bounds, coarse)
    of_median = partial(_of_median, differences, bounds, coarse)
    interval, robust = of_mean(level), of_median(level)
    needed, for_delta = (
        _needed(rules, effect, interval.sd, resolution) for effect in (interval.mean, MATTERS[claims] * delta)
    )
    numbers = Verdict(
        NONE, "", interval, rules[-1].region.p(differences, off, coarse), robust, None, (), needed, for_delta
    )
    if interval.n < FEWEST_SEEDS:
        return replace(numbers, detail=f"{interval.n} seeds; {FEWEST_SEEDS} are the fewest")
    rule = _fitting(rules, of_mean)
    word = rule.word if rule else INCONCLUSIVE
    companion = _fitting(rules, of_median)
    return replace(
        numbers,
        word=word,
        detail=rule.detail if rule else _power(interval.n, needed, coarse),
        p=rule.region.p(differences, off, coarse) if rule else numbers.p,
        robust_word=companion.word if companion else INCONCLUSIVE,
        hangs_on=_hangs_on(differences, rules, word, bounds, resolution),
        moved=rule.region.left if rule else numbers.moved,
    )


def rules_of(claims: Kind, delta: float) -> list[Rule]:
    """The verdicts of a kind in the order in which they are tried; the last is what the claim itself says.

    "Less" has those of "greater".
    """
    level = LEVELS[claims]
    if claims == "equal":
        return [
            Rule(CONTRADICTED, "higher", Region(low_above=delta)),
            Rule(CONTRADICTED, "lower", Region(high_below=-delta)),
            Rule(SUPPORTED, "", Region(low_above=-delta, high_below=delta, level=level)),
        ]
    if claims == "at_least":
        return [
            Rule(CONTRADICTED, "lower", Region(high_below=-delta, level=level)),
            Rule(SUPPORTED, "", Region(low_above=-delta, level=level)),
        ]
    reversed_ = Rule(CONTRADICTED, "reversed", Region(high_below=0.0))
    supported = Rule(SUPPORTED, "", Region(low_above=delta))
    if claims == "exceeds":
        return [reversed_, Rule(CONTRADICTED, "lower", Region(high_below=delta)), supported]
    negligible = Rule(NEGLIGIBLE, "", Region(high_below=delta))
    size_open = Rule(SUPPORTED, "size open", Region(low_above=0.0, mean_from=delta))
    return [reversed_, negligible, supported, size_open]


def _of_mean(differences: Sequence[float], bounds: Bounds, resolution: float, level: float) -> Interval:
    return mean_interval(differences, level, bounds=bounds, resolution=resolution)


def _of_median(differences: Sequence[float], bounds: Bounds, resolution: float, level: float) -> HodgesLehmann:
    robust = hodges_lehmann(differences, level)
    if robust.low is None or robust.high is None:
        return robust
    low, high = clipped(robust.low - resolution, robust.high + resolution, differences, bounds)
    return HodgesLehmann(robust.estimate, low, high)


def _fitting(rules: Sequence[Rule], at: Callable[[float], Interval | HodgesLehmann]) -> Rule | None:
    """The first rule whose region holds the interval of its level."""
    intervals = {level: at(level) for level in {rule.region.level for rule in rules}}
    for rule in rules:
        interval = intervals[rule.region.level]
        middle = interval.mean if isinstance(interval, Interval) else interval.estimate
        if interval.low is None or interval.high is None:
            return None
        if rule.region.holds(interval.low, middle, interval.high):
            return rule
    return None


def _hangs_on(
    differences: Sequence[float], rules: Sequence[Rule], word: str, bounds: Bounds, resolution: Resolution
) -> list[int]:
    """The places of the differences without which the rules say another word."""
    turns = []
    for place in range(len(differences)):
        rest = [*differences[:place], *differences[place + 1 :]]
        rule = _fitting(rules, partial(_of_mean, rest, bounds, resolution.of(max(len(rest), 1))))
        if (rule.word if rule else INCONCLUSIVE) != word:
            turns.append(place)
    return turns


def _needed(rules: Sequence[Rule], effect: float, sd: float | None, resolution: Resolution) -> int | None:
    """Seeds for the widest verdict that is right for this effect, such as negligible for one below 0."""
    right = [rule for rule in rules if rule.region.holds(effect, effect, effect)]
    found = pairs_needed(right[-1].region, effect, sd, resolution=resolution) if right and sd else None
    return None if found is None else max(found, FEWEST_SEEDS)


def _power(n: int, needed: int | None, resolution: float) -> str:
    if needed is None:
        return "grid step" if resolution else "no affordable number of seeds would do"
    return f"n = {needed} for a verdict on the effect seen" if needed > n else "near the threshold"


def _mirrored(bounds: Bounds) -> Bounds:
    return -bounds[1], -bounds[0]


def _negated(verdict: Verdict) -> Verdict:
    """A verdict on negated differences, with the numbers of the differences themselves."""
    interval, robust = verdict.interval, verdict.robust
    assert interval is not None
    assert robust is not None
    return replace(
        verdict,
        interval=replace(interval, mean=0.0 - interval.mean, low=_minus(interval.high), high=_minus(interval.low)),
        robust=HodgesLehmann(0.0 - robust.estimate, _minus(robust.high), _minus(robust.low)),
        moved=verdict.moved[::-1],
    )


def _minus(number: float | None) -> float | None:
    return None if number is None else 0.0 - number
