"""How often the protocol of claims errs: made-up claims of known truth, through the real judging functions.

A claim is made up by drawing one difference a seed from a law with a known mean and standard deviation 1. The smallest
effect of interest is half a standard deviation, and a whole one for equality, which 12 seeds could not show else.
For each law and each false verdict the first table gives how often it comes; in brackets how often without a mark (it
hangs on one seed, or the Hodges-Lehmann interval says otherwise), and how often it survives Bonferroni's adjustment for
all claims with tests that ship, which is the hardest step of Holm's. The second table tunes and judges two arms that
are equal.

    python scripts/claim_errors.py [--claims 10000] [--seeds 12]
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from bnexp.claims.declaration import Kind, ids, load
from bnexp.claims.tuning import choose
from bnexp.claims.verdicts import CONTRADICTED, NEGLIGIBLE, SUPPORTED, Verdict, judge
from bnexp.compare.statistics import Resolution
from bnexp.config.shipped import configs_folder

DELTA = 0.5
# One seed in so many collapses, and falls by so many standard deviations of the others.
RARE, FALL = 10, 6
# Of a counted measure: the step of its grid in standard deviations.
STEP = 0.2

Law = Callable[[np.random.Generator, int], np.ndarray]


def _lognormal(rng: np.random.Generator, n: int) -> np.ndarray:
    return (rng.lognormal(size=n) - math.exp(0.5)) / math.sqrt((math.e - 1) * math.e)


def _collapsing(rng: np.random.Generator, n: int) -> np.ndarray:
    share = 1 / RARE
    falls = FALL * (rng.random(n) < share)
    return (rng.normal(size=n) - falls + FALL * share) / math.sqrt(1 + FALL**2 * share * (1 - share))


def _counted(rng: np.random.Generator, n: int) -> np.ndarray:
    """Differences of two numbers that are each rounded down to a grid."""
    first, second = rng.normal(0, math.sqrt(0.5), (2, n))
    return STEP * (np.floor(first / STEP) - np.floor(second / STEP))


@cache
def claims_of_a_suite() -> int:
    """The claims that ship and have tests."""
    return sum(bool(load(configs_folder() / "claim" / f"{name}.yaml").tests) for name in ids(configs_folder()))


LAWS: Mapping[str, Law] = {
    "normal": lambda rng, n: rng.normal(size=n),
    "lognormal": _lognormal,
    "lognormal, mirrored": lambda rng, n: -_lognormal(rng, n),
    "collapsing": _collapsing,
    "collapsing, mirrored": lambda rng, n: -_collapsing(rng, n),
    "heavy-tailed": lambda rng, n: rng.standard_t(3, n) / math.sqrt(3),
    "counted": _counted,
}


@dataclass(frozen=True)
class Case:
    """A truth, and the verdict that is false then."""

    title: str
    claims: Kind
    effect: float
    is_false: Callable[[Verdict], bool]


CASES = (
    Case("no effect: supported", "greater", 0.0, lambda found: found.word == SUPPORTED),
    Case("no effect: reversed", "greater", 0.0, lambda found: found.word == CONTRADICTED),
    Case("delta: size shown", "greater", DELTA, lambda found: (found.word, found.detail) == (SUPPORTED, "")),
    Case("delta: negligible", "greater", DELTA, lambda found: found.word in (NEGLIGIBLE, CONTRADICTED)),
    Case("equal, but delta", "equal", 2 * DELTA, lambda found: found.word == SUPPORTED),
    Case("at least, but -delta", "at_least", -DELTA, lambda found: found.word == SUPPORTED),
)


@dataclass(frozen=True)
class Rate:
    """Shares of made-up claims with a false verdict: all, without a mark, and after the adjustment."""

    all: float
    unmarked: float
    adjusted: float

    def __str__(self) -> str:
        return f"{100 * self.all:.1f} ({100 * self.unmarked:.1f}; {100 * self.adjusted:.1f})"


def errors(law: str, claims: int, seeds: int) -> dict[str, Rate]:
    """The rates of all cases under a law."""
    judged: dict[tuple[Kind, float], list[Verdict]] = {}
    for kind, effect in dict.fromkeys((case.claims, case.effect) for case in CASES):
        rng = np.random.default_rng(0)
        draws = (list(LAWS[law](rng, seeds) + effect) for _ in range(claims))
        step = STEP if law == "counted" else 0.0  # half a step for each of two arms
        judged[kind, effect] = [judge(draw, kind, abs(effect) or DELTA, resolution=Resolution(step)) for draw in draws]
    return {case.title: _rate(judged[case.claims, case.effect], case) for case in CASES}


def _rate(found: Sequence[Verdict], case: Case) -> Rate:
    false = [verdict for verdict in found if case.is_false(verdict)]
    unmarked = [verdict for verdict in false if not verdict.hangs_on and verdict.robust_word == verdict.word]
    adjusted = [verdict for verdict in false if (verdict.p or 0) * claims_of_a_suite() < 0.05]
    return Rate(*(len(some) / len(found) for some in (false, unmarked, adjusted)))


def equal_arms(sd: float, bend: float, claims: int, seeds: int, tuning_seeds: int) -> tuple[float, float]:
    """How often two equal arms, each tuned over six rates and judged, differ: (first is better, second is better).

    Args:
        sd: of a run's accuracy, in points; the smallest effect of interest is half a point.
        bend: points that a rate one step from the best costs; two steps cost four times as much.
        claims: how many suites.
        seeds: of the verdict.
        tuning_seeds: of the tuning.
    """
    rng = np.random.default_rng(0)
    levels = [-bend * (place - 2.5) ** 2 for place in range(6)]
    words = []
    for _ in range(claims):
        runs = [_tuned_arm(rng, levels, sd, seeds, tuning_seeds) for _ in range(2)]
        words.append(judge(list(runs[0] - runs[1]), "greater", 0.5).word)
    return words.count(SUPPORTED) / claims, words.count(CONTRADICTED) / claims


def _tuned_arm(
    rng: np.random.Generator, levels: Sequence[float], sd: float, seeds: int, tuning_seeds: int
) -> np.ndarray:
    scores = {place: list(level + rng.normal(0, sd, tuning_seeds)) for place, level in enumerate(levels)}
    return levels[choose(scores, larger=True).chosen] + rng.normal(0, sd, seeds)


def main() -> None:
    """Print both tables as Markdown."""
    options = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    options.add_argument("--claims", type=int, default=10_000)
    options.add_argument("--seeds", type=int, default=12)
    given = options.parse_args()
    print(f"{claims_of_a_suite()} claims have tests\n")
    print(f"| law | {' | '.join(case.title for case in CASES)} |\n|{' --- |' * (1 + len(CASES))}")
    for law in LAWS:
        print(f"| {law} | {' | '.join(map(str, errors(law, given.claims, given.seeds).values()))} |", flush=True)
    print("\n| sd of a run | a step costs | tuning seeds | first better | second better |\n|" + " --- |" * 5)
    for sd in (0.3, 1.0):
        for bend in (0.0, 0.1, 0.5):
            for tuning in (2, 5):
                shares = equal_arms(sd, bend, given.claims, given.seeds, tuning)
                row = " | ".join(f"{100 * share:.1f} %" for share in shares)
                print(f"| {sd:g} pp | {bend:g} pp | {tuning} | {row} |", flush=True)


if __name__ == "__main__":
    main()
