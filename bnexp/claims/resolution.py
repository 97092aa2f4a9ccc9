"""What is known of a measured number beforehand: between which bounds it lies, and how finely it can be told.

A largest working learning rate is known to one step of its axis, a share of rates to one value in all, a share of runs
to one run, and steps to a target to the evaluation at which it was reached. Eight equal values of such a measure are no
proof of equal true values.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping

from bnexp.claims import measures
from bnexp.claims.declaration import Test
from bnexp.claims.design import Design
from bnexp.compare.statistics import UNBOUNDED, Bounds
from bnexp.config.metrics import metric_of
from bnexp.runs.collect import Run

SCALES: Mapping[str, Callable[[float], float]] = {"linear": float, "log": math.log, "log10": math.log10}


def bounds(test: Test, design: Design) -> Bounds:
    """The least and the largest number that an arm can have in a test; infinite where there is none."""
    measure, kind = test.measure, test.reduce.kind if test.reduce else None
    if test.scale != "linear" or measure.steps_to is not None or measure.layers is not None:
        return UNBOUNDED
    if kind in ("share", "count"):
        return 0.0, 1.0 if kind == "share" else float(_values(design))
    if measure.above is not None:
        return 0.0, 1.0
    if kind not in (None, "at_best"):
        return UNBOUNDED
    low, high = metric_of(measure.tag).bounds
    if measure.minus is None:
        return low, high
    less_low, less_high = metric_of(measure.minus).bounds
    return low - less_high, high - less_low


def half_step(test: Test, design: Design, number: float, run: Run | None) -> float:
    """How far a measured number may lie from the true one, on the scale of the test; 0 for what is not on a grid.

    Args:
        test: what is measured.
        design: with its axis.
        number: measured, not yet scaled.
        run: of the number, where it is of a single one.
    """
    kind = test.reduce.kind if test.reduce else None
    if kind == "largest":
        assert design.axis is not None
        values = [SCALES[test.scale](float(value)) for value in design.axis.values]
        return max((b - a for a, b in itertools.pairwise(values)), default=0.0) / 2
    if kind in ("share", "count"):
        return 0.5 / (_values(design) if kind == "share" else 1)
    if kind is None and test.measure.steps_to is not None and run is not None:
        scaled, since = SCALES[test.scale], measures.steps_since(run, test.measure, number)
        before = [scaled(number) - scaled(number - since)] if since < number else []  # step 0 has no logarithm
        return max([scaled(number + since) - scaled(number), *before])
    return 0.0


def _values(design: Design) -> int:
    assert design.axis is not None
    return len(design.axis.values)
