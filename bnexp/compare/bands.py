"""Mean curves of arms: for figures, and as TensorBoard runs with a band for the interval."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from bnexp.compare.statistics import Interval, mean_interval
from bnexp.config.metrics import metric_of
from bnexp.config.names import distinct, run_name
from bnexp.runs.arms import Arm
from bnexp.runs.metrics import curve

# Written to TensorBoard beside the compared metric.
_METRICS = ("train/loss", "train/accuracy", "test/loss", "test/accuracy", "test/accuracy_precise")


def mean_curve(arm: Arm, metric: str) -> dict[int, Interval]:
    """Step -> mean over the seeds of finished runs, up to the step at which the first of them has stopped early.

    The curve of a diverged run ends early, which would bend the mean; so would a run's that has stopped early. A seed
    counts once, as the mean of its runs.
    """
    finished = [run for run in arm.runs if run.status == "finished" and run.has_curve]
    last = min((run.stopped_at for run in finished if run.stopped_at is not None), default=math.inf)
    points: defaultdict[int, defaultdict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for run in finished:
        for step, value in curve(run.folder, metric).items():
            if step <= last:
                points[step][run.seed].append(value)
    bounds = metric_of(metric).bounds
    means = {step: [math.fsum(some) / len(some) for some in seeds.values()] for step, seeds in sorted(points.items())}
    return {step: mean_interval(values, bounds=bounds) for step, values in means.items()}


def write(folder: Path, arms: Sequence[Arm], metric: str) -> None:
    """Write one TensorBoard run for each arm: mean and 95 % interval, with bands under Custom Scalars.

    Raises:
        OSError: the folder cannot be written.
    """
    from bnexp.runs.events import write_bands  # imports torch

    for arm, name in zip(arms, distinct([run_name(arm.label.split(",")) for arm in arms]), strict=True):
        curves = {tag: mean_curve(arm, tag) for tag in dict.fromkeys((metric, *_METRICS))}
        bands = {tag: {step: _band(i) for step, i in steps.items()} for tag, steps in curves.items() if steps}
        write_bands(folder / name, bands)


def _band(interval: Interval) -> tuple[float, float, float]:
    """(mean, lower, upper). A single seed has no interval; its band has no width."""
    mean, low, high = interval.mean, interval.low, interval.high
    return mean, mean if low is None else low, mean if high is None else high
