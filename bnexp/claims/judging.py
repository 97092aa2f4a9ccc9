"""From the runs of a claim to its verdicts: each test is judged in each of its regimes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from bnexp.claims import measures
from bnexp.claims.declaration import Measure, Test
from bnexp.claims.design import Design, Point
from bnexp.claims.resolution import SCALES, bounds, half_step
from bnexp.claims.sweeps import Harvest
from bnexp.claims.tuning import TunedValue
from bnexp.claims.verdicts import DECIDED, INCONCLUSIVE, NONE, SUPPORTED, Verdict, judge
from bnexp.compare.statistics import Bounds, Resolution, mcnemar, rounding
from bnexp.compare.working import Table
from bnexp.config.metrics import better_when_larger, larger_is_better
from bnexp.runs.collect import Run, Setting, show


@dataclass(frozen=True)
class Side:
    """One arm or point of a contrast.

    Attributes:
        weight: in the contrast.
        points: the point; all points of the arm where the test reduces the axis.
        values: seed -> measured number, not yet scaled; None where there is none.
        diverged: how many runs diverged.
        runs: how many runs there are.
        folders: of the runs.
    """

    weight: float
    points: Sequence[Point]
    values: Mapping[int, float | None]
    diverged: int
    runs: int
    folders: Sequence[str]


@dataclass(frozen=True)
class Judged:
    """A test in a regime.

    Attributes:
        sides: name in the contrast -> side.
        differences: seed -> weighted sum of the sides; only seeds for which all sides have a value.
        mcnemar: exact p of "both diverge equally often"; None unless two points are compared.
        notes: doubts, and seeds that were left out.
        same_as: the regime whose case is of exactly the same runs, where this one is not counted again.
    """

    test: str
    regime: str
    verdict: Verdict
    sides: Mapping[str, Side]
    differences: Mapping[int, float]
    mcnemar: float | None
    notes: list[str] = field(default_factory=list)
    same_as: str | None = None


def judged(design: Design, harvest: Harvest) -> list[Judged]:
    """Judge every test in each of its regimes.

    A failed check takes the verdicts of the tests that need it. Identical runs count once: where a tuned regime chose
    the settings of another one for all points of a test, one of the two cases has no verdict.
    """
    cases = [
        _Case(design, harvest, name, test, regime).judged()
        for name, test in design.tests.items()
        for regime in design.regimes_of(test)
    ]
    cases = [_voided(case, design.tests[case.test].needs, cases) for case in cases]
    return _counted_once(design, harvest, cases)


def primary(design: Design, cases: Sequence[Judged]) -> list[Judged]:
    """The cases that answer the claim, as it names them, but for those of the same runs as another one."""
    by_name = {f"{case.regime}/{case.test}": case for case in cases}
    return [by_name[name] for name in design.claim.holds_if if by_name[name].same_as is None]


def _counted_once(design: Design, harvest: Harvest, cases: Sequence[Judged]) -> list[Judged]:
    """The cases, of which those of the same runs as another one name it, and lose their verdict where it is the same.

    Of two such cases the one that the claim names as primary keeps its verdict, else the first one.
    """
    names = design.claim.holds_if
    kept: dict[tuple[Any, ...], Judged] = {}
    for case in sorted(cases, key=lambda case: f"{case.regime}/{case.test}" not in names):
        kept.setdefault(_runs_judged(design, harvest, case), case)
    return [_marked(case, kept[_runs_judged(design, harvest, case)]) for case in cases]


def _runs_judged(design: Design, harvest: Harvest, case: Judged) -> tuple[Any, ...]:
    """What a case has judged: equal for the same test of the same runs with the same verdict."""
    target = design.tests[case.test].measure.target_arm
    labels = [point.label for side in case.sides.values() for point in side.points]
    labels += [point.label for point in design.points if point.arm == target]
    runs = [harvest.runs.get((case.regime, label, seed)) for label in labels for seed in design.seeds]
    return case.test, case.verdict.word, *(run.folder if run else None for run in runs)


def _marked(case: Judged, first: Judged) -> Judged:
    if first is case or not any(side.runs for side in case.sides.values()):
        return case
    numbers = replace(case.verdict, word=NONE, detail=f"same runs as {first.regime}", p=None, hangs_on=())
    return replace(case, verdict=replace(numbers, robust_word=None), notes=[], same_as=first.regime)


def _voided(case: Judged, needs: Sequence[str], cases: Sequence[Judged]) -> Judged:
    """The case without its verdict where a check failed: in the same regime, or else in any in which it was made."""
    failed = []
    for name in needs:
        checks = {check.regime: check.verdict.word for check in cases if check.test == name}
        words = [checks[case.regime]] if case.regime in checks else list(checks.values())
        if any(word != SUPPORTED for word in words):
            failed.append(name)
    if not failed:
        return case
    return replace(case, verdict=replace(case.verdict, word=NONE, detail=f"check failed: {', '.join(failed)}"))


def missing_metrics(design: Design, harvest: Harvest) -> list[str]:
    """The metrics of tests and figure that finished runs of their arms lack; for a smoke test."""
    faults: dict[str, None] = {}
    wanted = [(test.measure, design.regimes_of(test), test.measured) for test in design.tests.values()]
    if design.claim.figure.kind != "dots":
        wanted.append((Measure(metric=design.claim.figure.metric), design.regimes, set(design.arms)))
    for measure, regimes, arms in wanted:
        for (regime, label, _), run in harvest.runs.items():
            if regime in regimes and label.partition("@")[0] in arms:
                try:
                    measures.value(run, measure, target=0.0)
                except measures.MissingMetricError as error:
                    faults.setdefault(str(error).partition(":")[0], None)
    return [f"{tag}: not among the metrics of the runs" for tag in faults]


class _Case:
    """One test in one regime."""

    def __init__(self, design: Design, harvest: Harvest, name: str, test: Test, regime: str) -> None:
        self.design, self.harvest, self.name, self.test, self.regime = design, harvest, name, test, regime
        self.larger = larger_is_better(test.measure.tag)

    def judged(self) -> Judged:
        sides: dict[str, Side] = {}
        try:
            sides |= {name: self._side(name, weight) for name, weight in self.test.contrast.items()}
            differences = dict(self._differences(sides))
        except ValueError as error:
            return Judged(self.name, self.regime, Verdict(NONE, str(error)), sides, {}, None)
        verdict = judge(
            list(differences.values()),
            self.test.claims,
            self.test.threshold,
            bounds=self._bounds(sides),
            resolution=self._resolution(sides),
            off=rounding(self._weighted(sides, differences)),
        )
        doubts = {
            "grid edge": [*self._tuned_edges(sides), *self._axis_ends(sides, verdict)],
            "censored": list(self._lost(sides, verdict)),
        }
        doubt = next((word for word, reasons in doubts.items() if reasons), None)
        if doubt is not None and verdict.word in DECIDED:
            verdict = replace(verdict, word=INCONCLUSIVE, detail=doubt)
        reasons = [reason for some in doubts.values() for reason in some]
        notes = [
            *reasons,
            *self._fragile(verdict, differences),
            *self._dropped(differences),
            *self._reached(sides),
        ]
        return Judged(self.name, self.regime, verdict, sides, differences, self._mcnemar(sides), notes)

    def _side(self, name: str, weight: float) -> Side:
        points = (
            [self.design.point(name)]
            if self.test.reduce is None
            else [point for point in self.design.points if point.arm == name]
        )
        runs = [run for point in points for seed in self.design.seeds if (run := self._run(point, seed))]
        return Side(
            weight=weight,
            points=points,
            values=self._values(points),
            diverged=sum(run.status == "diverged" for run in runs),
            runs=len(runs),
            folders=[str(run.folder) for run in runs],
        )

    def _run(self, point: Point, seed: int) -> Run | None:
        return self.harvest.runs.get((self.regime, point.label, seed))

    def _values(self, points: Sequence[Point]) -> dict[int, float | None]:
        """Seed -> number of a point, or of all points of an arm; None also where a run has failed."""
        table = {point.value: {seed: self._measured(point, seed) for seed in self.design.seeds} for point in points}
        if self.test.reduce is None:
            return table[points[0].value]
        return {seed: self._reduced(points, table, seed) for seed in self.design.seeds}

    def _measured(self, point: Point, seed: int) -> float | None:
        run = self._run(point, seed)
        if run is None:
            return None
        arm = self.test.measure.target_arm
        if arm is None:
            return measures.value(run, self.test.measure)
        model = self._run(Point(arm, point.value), seed)
        target = measures.last(model, self.test.measure.tag) if model else None
        return None if target is None else measures.value(run, self.test.measure, target)

    def _reduced(self, points: Sequence[Point], table: Table, seed: int) -> float | None:
        runs = {point.value: self._run(point, seed) for point in points}
        if None in runs.values():
            return None
        assert self.test.reduce is not None
        diverged = [at for at, run in runs.items() if run is not None and run.status == "diverged"]
        chance = next((measures.chance(run, self.test.measure) for run in runs.values() if run is not None), None)
        larger, reduce = self.larger, self.test.reduce
        return measures.reduced(table, reduce, seed, larger=larger, diverged=diverged, chance=chance)

    def _differences(self, sides: Mapping[str, Side]) -> Iterator[tuple[int, float]]:
        """Seed -> weighted sum of scaled values.

        Raises:
            ValueError: the logarithm of a number that is not positive.
        """
        for seed in self.design.seeds:
            numbers = {name: side.values[seed] for name, side in sides.items() if side.weight}
            if None not in numbers.values():
                yield seed, math.fsum(sides[name].weight * self._scaled(name, seed, x) for name, x in numbers.items())

    def _weighted(self, sides: Mapping[str, Side], seeds: Iterable[int]) -> Iterator[float]:
        """The numbers that the differences of these seeds are sums of."""
        for seed in seeds:
            yield from (
                side.weight * self._scaled(name, seed, side.values[seed]) for name, side in sides.items() if side.weight
            )

    def _scaled(self, name: str, seed: int, number: float | None) -> float:
        assert number is not None
        if self.test.scale != "linear" and number <= 0:
            raise ValueError(f"{name}, seed {seed}: {number:g} has no logarithm; use scale: linear")
        return SCALES[self.test.scale](number)

    def _bounds(self, sides: Mapping[str, Side]) -> Bounds:
        """Between which a difference must lie."""
        low, high = bounds(self.test, self.design)
        ends = [sorted((side.weight * low, side.weight * high)) for side in sides.values() if side.weight]
        return math.fsum(end[0] for end in ends), math.fsum(end[1] for end in ends)

    def _resolution(self, sides: Mapping[str, Side]) -> Resolution:
        shares = self.test.measure.above is not None and self.test.reduce is None
        return Resolution(
            each=math.fsum(abs(side.weight) * self._half_step(side) for side in sides.values()),
            runs=math.fsum(0.5 * abs(side.weight) for side in sides.values()) if shares else 0.0,
        )

    def _half_step(self, side: Side) -> float:
        """How far the side's mean may lie from the true one, on the scale of the test."""
        steps = [
            half_step(self.test, self.design, number, self._run(side.points[0], seed))
            for seed, number in side.values.items()
            if number is not None
        ]
        return math.fsum(steps) / len(steps) if steps else 0.0

    def _tuned_edges(self, sides: Mapping[str, Side]) -> Iterator[str]:
        """Points whose best value lies on the edge of its grid, so that a better one may lie outside."""
        regime = self.design.regimes[self.regime]
        for point in (point for side in sides.values() for point in side.points):
            tuned = self.harvest.tuned.get((self.regime, point.label))
            if tuned is not None and tuned.at_edge:
                yield f"{point.label}: best {regime.key}={show(tuned.best)} is on the edge of {_grid(tuned)}"

    def _axis_ends(self, sides: Mapping[str, Side], verdict: Verdict) -> Iterator[str]:
        """Arms that work up to the end of the axis, or are best there, if a longer axis could change the verdict."""
        reduce = self.test.reduce
        if reduce is not None and reduce.kind == "best_at":
            yield from self._best_at_ends(sides)
        if reduce is None or reduce.kind != "largest":
            return
        for name, side in sides.items():
            top = side.points[-1].value
            at_top = sum(value == top for value in side.values.values())
            # If the verdict needs this arm to be large, a longer axis can only confirm it.
            if at_top and _could_move(verdict, side, [1]):
                yield f"{name}: works up to the end of the axis ({show(top)}) for {at_top} seeds; more may work"

    def _best_at_ends(self, sides: Mapping[str, Side]) -> Iterator[str]:
        for name, side in sides.items():
            ends = {float(side.points[place].value or 0) for place in (0, -1)}
            at_ends = sum(value in ends for value in side.values.values())
            if at_ends:
                yield f"{name}: is best at an end of the axis for {at_ends} seeds; the best may lie outside"

    def _lost(self, sides: Mapping[str, Side], verdict: Verdict) -> Iterator[str]:
        """Seeds with a value on another side alone, if what is missing could have made another verdict."""
        weighted = {name: side for name, side in sides.items() if side.weight}
        for name, side in weighted.items():
            others = [other.values for other in weighted.values() if other is not side]
            alone = (any(values[seed] is not None for values in others) for seed in self.design.seeds)
            lost = sum(side.values[seed] is None and one for seed, one in zip(self.design.seeds, alone, strict=True))
            if lost and verdict.word in DECIDED and _could_move(verdict, side, self._missing()):
                yield f"{name}: {lost} seeds have no value, and could have spoken against the verdict"

    def _missing(self) -> Sequence[int]:
        """Where a missing number lies: -1 below those that are there, 1 above them; both where nobody knows."""
        measure, reduce = self.test.measure, self.test.reduce
        if reduce is not None and reduce.kind == "largest":
            return [-1]  # not even the smallest value works
        if measure.steps_to is not None and reduce is None:
            return [1]
        better = better_when_larger(measure.tag)
        plain = measure.minus is None and measure.layers is None and measure.at != "sd"
        if better is None or not plain or (reduce is not None and reduce.kind != "at_best"):
            return [-1, 1]
        return [-1] if better else [1]

    def _fragile(self, verdict: Verdict, differences: Mapping[int, float]) -> Iterator[str]:
        """Seeds on which the verdict hangs, and another verdict by the robust interval."""
        seeds = [list(differences)[place] for place in verdict.hangs_on]
        if seeds:
            yield f"the verdict hangs on one seed: without seed {' or '.join(map(str, seeds))} it is another one"
        if verdict.robust_word not in (None, verdict.word):
            yield f"by the Hodges-Lehmann interval, which one seed moves little, it is {verdict.robust_word}"

    def _dropped(self, differences: Mapping[int, float]) -> Iterator[str]:
        lost = [seed for seed in self.design.seeds if seed not in differences]
        if lost:
            why = "the target was not reached" if self.test.measure.steps_to else "a run diverged or has no value"
            yield f"{len(lost)} of {len(self.design.seeds)} seeds left out, where {why}"

    def _reached(self, sides: Mapping[str, Side]) -> Iterator[str]:
        """How many runs reached the target."""
        if self.test.measure.steps_to is not None and self.test.reduce is None:
            for name, side in sides.items():
                reached = sum(value is not None for value in side.values.values())
                yield f"{name}: {reached}/{len(side.values)} reached the target"

    def _mcnemar(self, sides: Mapping[str, Side]) -> float | None:
        if len(sides) != 2 or self.test.reduce is not None:
            return None
        first, second = (self._diverged(side.points[0]) for side in sides.values())
        return mcnemar(len(first - second), len(second - first))

    def _diverged(self, point: Point) -> set[int]:
        return {seed for seed in self.design.seeds if (run := self._run(point, seed)) and run.status == "diverged"}


def _could_move(verdict: Verdict, side: Side, directions: Sequence[int]) -> bool:
    """Whether other numbers of a side, in one of these directions, could make another verdict."""
    down, up = verdict.moved
    return any(up if direction * side.weight > 0 else down for direction in directions)


def _grid(tuned: TunedValue) -> str:
    values: list[Setting] = list(tuned.means)
    return " ".join(show(value) for value in values)
