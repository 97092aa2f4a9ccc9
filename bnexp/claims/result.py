"""The result of a claim as dataclasses: all that the report says, made of the claim's runs and verdicts."""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal

from bnexp.claims.answers import Answer, answer
from bnexp.claims.declaration import Kind, Test
from bnexp.claims.declared import Declared
from bnexp.claims.design import Design
from bnexp.claims.judging import Judged, Side, primary
from bnexp.claims.panels import Panels, metrics_of, panels
from bnexp.claims.resolution import bounds
from bnexp.claims.sweeps import Harvest
from bnexp.claims.tuning import TunedValue
from bnexp.compare.statistics import Bounds, columns, mean_interval
from bnexp.config.metrics import metric_of
from bnexp.runs import run_json
from bnexp.runs.collect import show

if TYPE_CHECKING:
    from bnexp.claims.exact import Row  # imports torch, which a report does not need

# Reductions over an axis that leave a number in the units of the metric.
_LEVELS = ("at_best", "range", "slope")


@dataclass(frozen=True)
class SideResult:
    """One arm or point of a contrast: its weight, its numbers by seed, their mean with its interval, and its runs."""

    weight: float
    values: dict[str, float | None]
    mean: float | None
    sd: float | None
    low: float | None
    high: float | None
    n: int
    diverged: int
    runs: int
    folders: list[str]


@dataclass(frozen=True)
class TestResult:
    """A test in a regime, judged.

    Attributes:
        test: the test's name; ``says``, ``claims``, ``threshold``, ``scale`` and ``metric`` are from its declaration.
        role: primary, secondary, control or check.
        is_level: the numbers are in units of the metric.
        verdict: the word; ``detail`` says why, or is empty.
        mean: of the differences; ``low`` and ``high`` are the ends of its t-interval (of 95 %, of 90 % for an equality
            and "at least"), ``robust`` the Hodges-Lehmann estimate with both ends of its interval.
        robust_verdict: the word that the robust interval gives.
        hangs_on: seeds without each of which the word is another one.
        p: sign-flip p of the verdict's own null hypothesis.
        needed: seeds that bring a verdict with a chance of 80 % for the effect seen; ``needed_for_delta`` for
            the smallest that matters (see ``verdicts.MATTERS``).
        mcnemar: p of "both arms diverge equally often".
        differences: seed -> difference.
        sides: arm or point -> numbers.
        noise_floor: standard error of the accuracies from the number of test images alone.
        same_as: the regime that has judged exactly the same runs; then this one is not counted, and has no verdict.
    """

    __test__ = False

    test: str
    regime: str
    says: str
    claims: Kind
    threshold: float
    scale: Literal["linear", "log", "log10"]
    metric: str
    role: Literal["primary", "secondary", "control", "check"]
    is_level: bool
    verdict: str
    detail: str
    mean: float | None
    sd: float | None
    low: float | None
    high: float | None
    n: int
    d_z: float | None
    robust: list[float | None]
    robust_verdict: str | None
    hangs_on: list[str]
    p: float | None
    needed: int | None
    needed_for_delta: int | None
    mcnemar: float | None
    differences: dict[str, float]
    sides: dict[str, SideResult]
    noise_floor: float | None
    notes: list[str]
    same_as: str | None = None


@dataclass(frozen=True)
class TunedResult:
    """The value at which a point runs in a tuned regime, and the mean tuning metric (value, mean) of all values."""

    regime: str
    point: str
    means: list[list[Any]]
    chosen: str
    at_edge: bool


@dataclass(frozen=True)
class ExactResult:
    """A number of an exact check; ``measured`` is None where it was not finite."""

    name: str
    measured: float | None
    expected: float
    tolerance: float
    holds: bool


@dataclass(frozen=True)
class FigureResult:
    """What the claim's figure shows: the metric of each regime, and the setting along the axis."""

    kind: Literal["curves", "axis", "dots"]
    metrics: dict[str, str]
    axis: str | None
    panels: Panels


@dataclass(frozen=True)
class Result:
    """The result of a claim under a profile.

    Attributes:
        claim: the claim's id; the further texts up to ``declaration`` (its whole yaml) are from its declaration.
        answer: to the claim's sentence; None for a claim of exact checks alone.
        seeds: of the verdicts.
        exact: check -> numbers.
        runs: how many were made, tuning included; ``failed`` have no result.
        run_seconds: the sum over all runs.
        seconds: that the last command took.
        provenance: of the first run.
        declared: the declaration before the first run, and those that it was changed to.
        command: the words that run it, behind ``bnexp claim run``.
    """

    claim: str
    title: str
    sentence: str
    sources: list[str]
    articles: list[Any]
    literature: str
    confounds: str
    would_change: str
    declaration: str
    answer: Answer | None
    profile: str
    seeds: list[int]
    tuning_seeds: list[int]
    tests: list[TestResult]
    tuning: list[TunedResult]
    exact: dict[str, list[ExactResult]]
    figure: FigureResult
    runs: int
    failed: int
    run_seconds: float
    seconds: float
    date: str
    provenance: dict[str, Any]
    declared: list[Declared] = field(default_factory=list)
    command: str = ""


def conclude(
    design: Design,
    harvest: Harvest,
    tests: Sequence[Judged],
    exact: Mapping[str, Sequence[Row]],
    declared: Sequence[Declared],
    seconds: float,
    command: Sequence[str],
) -> Result:
    """The result of a claim.

    Args:
        design: what was run.
        harvest: the runs.
        tests: their verdicts.
        exact: check -> rows.
        declared: the history of the claim's declaration.
        seconds: that the command took.
        command: the words that run the claim, behind ``bnexp claim run``.
    """
    claim = design.claim
    first = run_json.read(harvest.all[0].folder) if harvest.all else {}
    images = first.get("images", {}).get("test")
    return Result(
        claim=claim.id,
        title=claim.title,
        sentence=claim.sentence,
        sources=claim.sources,
        articles=claim.articles,
        literature=claim.literature,
        confounds=claim.confounds,
        would_change=claim.would_change,
        declaration=claim.text,
        answer=answer(primary(design, tests)) if tests else None,
        profile=design.profile,
        seeds=list(design.seeds) if claim.tests else [],
        tuning_seeds=list(design.tuning_seeds) if harvest.tuned else [],
        tests=[_test(design, judged, images) for judged in tests],
        tuning=[_tuned(*key, value) for key, value in harvest.tuned.items()],
        exact={name: [ExactResult(*row, row.holds) for row in rows] for name, rows in exact.items()},
        figure=FigureResult(
            claim.figure.kind, metrics_of(design), design.axis.key if design.axis else None, panels(design, harvest)
        ),
        runs=len(harvest.all),
        failed=harvest.failed,
        run_seconds=math.fsum(run.seconds or 0.0 for run in harvest.all),
        seconds=seconds,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        provenance=first.get("provenance", {}),
        declared=list(declared),
        command=shlex.join(command),
    )


def _test(design: Design, judged: Judged, images: int | None) -> TestResult:
    test, verdict = design.tests[judged.test], judged.verdict
    interval, robust, seeds = verdict.interval, verdict.robust, [str(seed) for seed in judged.differences]
    metric = test.measure.tag
    return TestResult(
        test=judged.test,
        regime=judged.regime,
        says=test.says,
        claims=test.claims,
        threshold=test.threshold,
        scale=test.scale,
        metric=metric,
        role="primary" if f"{judged.regime}/{judged.test}" in design.claim.holds_if else test.role,
        is_level=test.measure.steps_to is None and (test.reduce is None or test.reduce.kind in _LEVELS),
        verdict=verdict.word,
        detail=verdict.detail,
        **columns(interval),
        n=interval.n if interval else 0,
        d_z=interval.d_z if interval else None,
        robust=[robust.estimate, robust.low, robust.high] if robust else [],
        robust_verdict=verdict.robust_word,
        hangs_on=[seeds[place] for place in verdict.hangs_on],
        p=verdict.p,
        needed=verdict.needed,
        needed_for_delta=verdict.needed_for_delta,
        mcnemar=judged.mcnemar,
        differences={str(seed): value for seed, value in judged.differences.items()},
        sides={name: _side(side, bounds(test, design)) for name, side in judged.sides.items()},
        noise_floor=_noise_floor(metric, judged.sides.values(), images) if _plain(test) else None,
        notes=judged.notes,
        same_as=judged.same_as,
    )


def _plain(test: Test) -> bool:
    """Whether its numbers are those of single runs on the test images."""
    return test.reduce is None and test.measure.minus is None


def _side(side: Side, bounds: Bounds) -> SideResult:
    values = [value for value in side.values.values() if value is not None]
    return SideResult(
        weight=side.weight,
        values={str(seed): value for seed, value in side.values.items()},
        **columns(mean_interval(values, bounds=bounds) if values else None),
        n=len(values),
        diverged=side.diverged,
        runs=side.runs,
        folders=[os.path.relpath(folder) for folder in side.folders],
    )


def _tuned(regime: str, point: str, tuned: TunedValue) -> TunedResult:
    means = [[show(value), mean] for value, mean in tuned.means.items()]
    return TunedResult(regime, point, means, show(tuned.chosen), tuned.at_edge)


def _noise_floor(metric: str, sides: Iterable[Side], images: int | None) -> float | None:
    """Standard error of an accuracy from the number of test images alone, ``sqrt(p (1 - p) / N)``."""
    if images is None or not (metric.startswith("test/") and metric_of(metric).is_proportion):
        return None
    values = [value for side in sides for value in side.values.values() if value is not None]
    p = math.fsum(values) / len(values) if values else 0.0
    return math.sqrt(p * (1 - p) / images) if 0 <= p <= 1 else None
