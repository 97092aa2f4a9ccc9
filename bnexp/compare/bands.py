"""Mean curves of arms: for figures, and as TensorBoard runs with a band for the interval."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from bnexp.compare.statistics import Interval, mean_interval
from bnexp.config.metrics import metric_of
from bnexp.config.names import run_name
from bnexp.runs.arms import Arm
from bnexp.runs.metrics import curve

# Written to TensorBoard beside the compared metric.
_METRICS = ("train/loss", "train/accuracy", "test/loss", "test/accuracy", "test/accuracy_precise")


def mean_curve(arm: Arm, metric: str) -> dict[int, Interval]:
    """Step -> mean over the finished runs, up to the step at which the first of them has stopped early.

    The curve of a diverged run ends early, which would bend the mean; so would a run's that has stopped early.
    """
    points: defaultdict[int, list[float]] = defaultdict(list)
    finished = [run for run in arm.runs if run.status == "finished" and run.has_curve]
    last = min((run.stopped_at for run in finished if run.stopped_at is not None), default=math.inf)
    for run in finished:
        for step, value in curve(run.folder, metric).items():
            if step <= last:
                points[step].append(value)
    bounds = metric_of(metric).bounds
    return {step: mean_interval(values, bounds=bounds) for step, values in sorted(points.items())}


def write(folder: Path, arms: Sequence[Arm], metric: str) -> None:
    """Write one TensorBoard run for each arm: mean and 95 % interval, with bands under Custom Scalars.

    Raises:
        OSError: the folder cannot be written.
    """
    from bnexp.runs.events import write_bands  # imports torch

    for arm in arms:
        curves = {tag: mean_curve(arm, tag) for tag in dict.fromkeys((metric, *_METRICS))}
        bands = {tag: {step: _band(i) for step, i in steps.items()} for tag, steps in curves.items() if steps}
        write_bands(folder / run_name(arm.label.split(",")), bands)


def _band(interval: Interval) -> tuple[float, float, float]:
    """(mean, lower, upper). A single seed has no interval; its band has no width."""
    mean, low, high = interval.mean, interval.low, interval.high
    return mean, mean if low is None else low, mean if high is None else high
