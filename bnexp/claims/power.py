"""How many seeds the verdict of a claim needs: a pilot of its primary tests with seeds that no verdict uses."""

from __future__ import annotations

from dataclasses import dataclass, replace

from bnexp.claims.declaration import Claim
from bnexp.claims.design import Design
from bnexp.claims.result import Result, TestResult

# The pilot's seeds, and those that it tunes with, meet neither the seeds of verdicts nor those of their tuning.
FIRST_SEED, FIRST_TUNING_SEED = 2000, 3000
SEEDS, TUNING_SEEDS = 6, 2


@dataclass(frozen=True)
class Power:
    """What a pilot says of a primary test.

    Attributes:
        claim: of the test; ``profile`` is that of the pilot.
        test: its numbers in the pilot; ``needed`` and ``needed_for_delta`` are the seeds that a verdict needs.
        declared: seeds of the profile.
    """

    claim: Claim
    profile: str
    test: TestResult
    declared: int


def pilot(design: Design, seeds: int = SEEDS) -> Design:
    """The primary tests of a claim with other seeds, and only the arms, points and regimes that they need.

    Raises:
        ValueError: the claim has no tests.
    """
    if not design.tests:
        raise ValueError(f"{design.claim.id}: has exact checks alone, which need no seeds")
    regimes: dict[str, list[str]] = {}
    for case in design.claim.holds_if:
        regime, _, test = case.partition("/")
        regimes.setdefault(test, []).append(regime)
    tests = {name: replace(design.tests[name], regimes=some) for name, some in regimes.items()}
    names = {name for test in tests.values() for name in test.named}
    measured = {arm for test in tests.values() for arm in test.measured}
    used = {regime for some in regimes.values() for regime in some}
    values = {design.point(name).value for name in names if name not in design.arms}
    whole = any(test.reduce is not None for test in tests.values())
    axis = design.axis
    if axis is not None and not whole:
        axis = replace(axis, values=[value for value in axis.values if value in values])
    return replace(
        design,
        arms={name: arm for name, arm in design.arms.items() if name in measured},
        axis=axis,
        regimes={name: regime for name, regime in design.regimes.items() if name in used},
        tests=tests,
        seeds=tuple(range(FIRST_SEED, FIRST_SEED + seeds)),
        tuning_seeds=tuple(range(FIRST_TUNING_SEED, FIRST_TUNING_SEED + TUNING_SEEDS)),
    )


def powers(design: Design, result: Result) -> list[Power]:
    """What a pilot's result says of each primary test.

    Args:
        design: of the claim itself.
        result: of its pilot.
    """
    return [Power(design.claim, design.profile, test, len(design.seeds)) for test in result.tests]
