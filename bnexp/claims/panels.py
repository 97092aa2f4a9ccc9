"""What a claim's figure draws: a panel a regime, with a line an arm or point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from bnexp.claims.design import Design
from bnexp.claims.sweeps import Harvest
from bnexp.compare.statistics import mean_interval
from bnexp.config.metrics import RUNNING, Evaluated, evaluated_of, metric_of
from bnexp.runs import metrics
from bnexp.runs.collect import show

# Arm or point -> its points, each a list [x, mean, low, high].
Lines = dict[str, list[list[Any]]]
# Regime -> lines.
Panels = dict[str, Lines]


def panels(design: Design, harvest: Harvest) -> Panels:
    """The lines of each regime; none for a figure that shows differences."""
    lines = {"curves": _curves, "axis": _axis}.get(design.claim.figure.kind)
    if lines is None:
        return {}
    return {name: lines(design, harvest, name, metric) for name, metric in metrics_of(design).items()}


def metrics_of(design: Design) -> dict[str, str]:
    """Regime -> what its panel draws: the figure's metric, or the same by the statistics of the regime's tests."""
    wanted = design.claim.figure.metric
    return {name: _metric(design, name, wanted) for name in design.regimes}


def _metric(design: Design, regime: str, wanted: str) -> str:
    tags = [test.measure.tag for test in design.tests.values() if regime in design.regimes_of(test)]
    alike = [tag for tag in tags if _running(tag) == _running(wanted)]
    return wanted if wanted in alike or not alike else alike[0]


def _running(tag: str) -> Evaluated:
    return replace(evaluated_of(tag), statistics=RUNNING)


def _curves(design: Design, harvest: Harvest, regime: str, metric: str) -> Lines:
    """Mean over the finished runs at each evaluation, a line a point."""
    lines: Lines = {}
    for point in design.points:
        runs = [run for (name, label, _), run in harvest.runs.items() if (name, label) == (regime, point.label)]
        curves = [metrics.curves(run.folder).get(metric, {}) for run in runs if run.status == "finished"]
        steps = sorted(set.intersection(*(set(curve) for curve in curves))) if curves else []
        lines[point.label] = [_band(step, [curve[step] for curve in curves], metric) for step in steps]
    return lines


def _axis(design: Design, harvest: Harvest, regime: str, metric: str) -> Lines:
    """Last value over the axis, a line an arm."""
    lines: Lines = {arm: [] for arm in design.arms}
    for point in design.points:
        runs = [harvest.runs.get((regime, point.label, seed)) for seed in design.seeds]
        values = [value for run in runs if run and (value := run.value(metric)) is not None]
        if values:
            at = point.value if isinstance(point.value, int | float) else show(point.value)
            lines[point.arm].append(_band(at, values, metric))
    return lines


def _band(at: float | str, values: Sequence[float], metric: str) -> list[Any]:
    interval = mean_interval(values, bounds=metric_of(metric).bounds)
    low, high = (interval.mean if end is None else end for end in (interval.low, interval.high))
    return [at, interval.mean, low, high]
