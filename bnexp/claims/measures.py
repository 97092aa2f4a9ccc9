"""One number of a run, and one number of an arm and seed over the axis."""

from __future__ import annotations

import math
import re
import statistics as standard
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from bnexp.claims.declaration import Measure, Reduce
from bnexp.compare.working import Table, largest_working, working
from bnexp.config.metrics import larger_is_better
from bnexp.runs.collect import Run, Setting
from bnexp.runs.metrics import Curve, curves


class MissingMetricError(ValueError):
    """A run that has finished does not have the metric that its claim measures."""


def value(run: Run, measure: Measure, target: float | None = None) -> float | None:
    """The measured number of a run.

    A diverged run counts as chance where the metric is an accuracy, since a dead network's logits say nothing; else it
    has no value. Steps to a target are None where the target was not reached (right-censored at the budget).

    Args:
        run: finished or diverged.
        measure: what to measure.
        target: what another arm sets as the target.

    Raises:
        MissingMetricError: the run has no such metric.
    """
    number = chance(run, measure) if run.status == "diverged" else _measured(run, measure, target)
    return number if measure.above is None or number is None else float(number > measure.above)


def _measured(run: Run, measure: Measure, target: float | None) -> float | None:
    curve = _curve(run, measure)
    if measure.minus is not None:
        less = _curve(run, Measure(metric=measure.minus))
        curve = {step: number - less[step] for step, number in curve.items() if step in less}
    if measure.steps_to is not None:
        goal = measure.reaches if target is None else target
        return _first_at(curve, goal, larger_is_better(measure.tag))
    return summary(curve, measure, curves(run.folder))


def chance(run: Run, measure: Measure) -> float | None:
    """What guessing scores, where a level is measured and that is known."""
    plain = measure.steps_to is None and measure.minus is None and measure.at != "sd"
    return run.chance(measure.tag) if plain else None


def last(run: Run, tag: str) -> float | None:
    """A metric's last value, chance for an accuracy of a diverged run."""
    return value(run, Measure(metric=tag))


def steps_since(run: Run, measure: Measure, step: float) -> float:
    """How many steps before ``step`` the measured curve was evaluated last; so long ago the target may be reached."""
    return step - max((before for before in _curve(run, measure) if before < step), default=0)


def summary(curve: Curve, measure: Measure, others: Mapping[str, Curve]) -> float | None:
    """A curve as one number; see ``Measure.at``.

    None for the sd of a single evaluation, for a step before the first evaluation, and where another metric never gets
    below its number.
    """
    at = measure.at
    if at == "last":
        return curve[max(curve)]
    if isinstance(at, dict) and "first" in at:
        if at["first"] not in others:
            raise MissingMetricError(f"{at['first']}: the run has no such metric")
        return _where_falls_below(curve, others[at["first"]], at["below"])
    if isinstance(at, dict | int):
        until = at["fraction"] * max(curve) if isinstance(at, dict) else at
        steps = [step for step in curve if step <= until]
        return curve[max(steps)] if steps else None
    values = [number for step, number in curve.items() if step >= (measure.since or 0)]
    if not values or (at == "sd" and len(values) < 2):
        return None
    return float(_SUMMARIES[at](values))


_SUMMARIES: dict[str, Any] = {
    "mean": standard.fmean,
    "max": max,
    "min": min,
    "sd": standard.stdev,
    "median": standard.median,
}


def _where_falls_below(curve: Curve, other: Curve, below: float) -> float | None:
    """The curve where another one first passes a number, on straight lines between the evaluations that both have."""
    steps = sorted(curve.keys() & other.keys())
    first = next((place for place, step in enumerate(steps) if other[step] < below), None)
    if first is None:
        return None
    here, before = steps[first], steps[max(first - 1, 0)]
    if before == here or not math.isfinite(other[before]):
        return curve[here]
    way = (other[before] - below) / (other[before] - other[here])
    return curve[before] + way * (curve[here] - curve[before])


def _first_at(curve: Curve, goal: float, larger: bool) -> float | None:
    """Half-way between the first evaluation that reaches the goal, and the one before, or step 0."""
    reached = [step for step, number in curve.items() if (number >= goal if larger else number <= goal)]
    if not reached:
        return None
    return (min(reached) + max((step for step in curve if step < min(reached)), default=0)) / 2


def _curve(run: Run, measure: Measure) -> Curve:
    """The measured curve: of one tag, or the mean or slope over the tags that match a pattern."""
    known = curves(run.folder)
    pattern = re.compile(".*".join(map(re.escape, measure.tag.split("*"))))
    layers = [curve for tag, curve in known.items() if pattern.fullmatch(tag)]
    layers = layers["first" in measure.drop : len(layers) - ("last" in measure.drop)]
    if not any(layers):
        raise MissingMetricError(f"{measure.tag}: {run.folder} has no such metric (there are: {', '.join(known)})")
    if len(layers) == 1 and measure.layers is None:
        return layers[0]
    steps = sorted(set.intersection(*(set(curve) for curve in layers)))
    return {step: _over_layers([curve[step] for curve in layers], measure) for step in steps}


def _over_layers(values: Sequence[float], measure: Measure) -> float:
    if measure.layers is None:
        return standard.fmean(values)
    if measure.layers == "slope":
        return slope(range(len(values)), values)
    found = slope(range(len(values)), [math.log10(number) for number in values])
    return abs(found) if measure.layers == "log10_slope_size" else found


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Least-squares slope, ``sum (x - mean x) y / sum (x - mean x)^2``."""
    middle = standard.fmean(x)
    return math.fsum((a - middle) * b for a, b in zip(x, y, strict=True)) / math.fsum((a - middle) ** 2 for a in x)


# --- over the axis ----------------------------------------------------------------------------------------------------


def reduced(
    table: Table,
    reduce: Reduce,
    seed: int,
    *,
    larger: bool,
    diverged: Collection[Setting] = (),
    chance: float | None = None,
) -> float | None:
    """One number of an arm's values along the axis, for one seed.

    ``largest``: the largest axis value that works (see ``compare.working``), with all values between it and the
    smallest such one working too (values that are too small do not count as failures).
    ``share``: the share of axis values that work. ``count``: how many reach ``factor`` times the best mean.
    ``slope``: least squares against log2 of the axis value, or the value itself.
    ``at_best``: the number at the axis value where the mean of the other seeds is best, so that no seed chooses by its
    own luck: the best of several numbers of one seed is too good, the more so the more of them are nearly alike.
    ``best_at``: the axis value where the seed itself is best, between the values: the top of the parabola through the
    best number and its neighbours, over log2 of the axis value.
    ``range``: the best less the worst.

    Args:
        table: the arm's numbers.
        reduce: which number.
        seed: of which seed.
        larger: larger numbers are better.
        diverged: axis values at which this seed's run diverged; they never work.
        chance: what guessing scores, where that is known.

    Returns:
        The number; None where no value works (``largest``), or some are missing (``slope``, ``best_at``, ``range``), or
        at each axis value one of another seed (``at_best``).
    """
    numbers = {at: by_seed.get(seed) for at, by_seed in table.items()}
    if reduce.kind == "slope":
        return _slope(numbers, reduce)
    there = [number for number in numbers.values() if number is not None]
    if reduce.kind == "at_best":
        return _at_best(table, seed, larger)
    if reduce.kind == "best_at":
        return _best_at(numbers, larger) if len(there) == len(numbers) else None
    if reduce.kind == "range":
        return max(there) - min(there) if len(there) == len(numbers) else None
    if reduce.kind == "count":
        assert reduce.factor is not None
        return float(len(working(table, seed, larger=larger, factor=reduce.factor, diverged=diverged)))
    assert reduce.within is not None
    works = working(table, seed, larger=larger, within=reduce.within, diverged=diverged, chance=chance)
    if reduce.kind == "share":
        return len(works) / len(numbers)
    found = largest_working(list(numbers), works)
    return None if found is None else float(found)


def _at_best(table: Table, seed: int, larger: bool) -> float | None:
    """The number at the axis value with the best mean over the other seeds, of those at which all of these have one."""
    others = {other for by_seed in table.values() for other in by_seed} - {seed}
    found = {
        at: [number for other, number in by_seed.items() if other != seed and number is not None]
        for at, by_seed in table.items()
    }
    means = {at: standard.fmean(there) for at, there in found.items() if others and len(there) == len(others)}
    return table[(max if larger else min)(means, key=means.__getitem__)].get(seed) if means else None


def _best_at(numbers: Mapping[Any, float | None], larger: bool) -> float:
    """The axis value of the best number; of equal ones the middle one. At an end of the axis there is no parabola."""
    x = [math.log2(at) for at in numbers]
    y = [number if larger else -number for number in numbers.values() if number is not None]
    places = [place for place, number in enumerate(y) if number == max(y)]
    best = places[len(places) // 2]
    if best in (0, len(y) - 1):
        return float(list(numbers)[best])
    (left, fall_left), (right, fall_right) = ((x[best] - x[at], y[best] - y[at]) for at in (best - 1, best + 1))
    bend = left * fall_right - right * fall_left
    top = x[best] - (left**2 * fall_right - right**2 * fall_left) / (2 * bend) if bend else x[best]
    return float(2**top)


def _slope(numbers: Mapping[Any, float | None], reduce: Reduce) -> float | None:
    if None in numbers.values() or len(numbers) < 2:
        return None
    x = [math.log2(at) if reduce.on == "log2" else float(at) for at in numbers]
    return slope(x, [number for number in numbers.values() if number is not None])
