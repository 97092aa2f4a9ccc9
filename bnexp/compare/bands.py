"""Mean curves of arms: for figures, and as TensorBoard runs with a band for the interval."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bnexp.compare.statistics import Interval, mean_interval
from bnexp.config.metrics import metric_of
from bnexp.config.names import distinct, run_name
from bnexp.runs.arms import Arm
from bnexp.runs.metrics import curve

# Written to TensorBoard beside the compared metric.
_METRICS = ("train/loss", "train/accuracy", "test/loss", "test/accuracy", "test/accuracy_precise")


def mean_curve(
    arm: Arm, metric: str, read: Callable[[Path, str], Mapping[Any, float]] = curve
) -> dict[float, Interval]:
    """Step -> mean over the seeds of finished runs, up to the step at which the first of them has stopped early.

    The curve of a diverged run ends early, which would bend the mean; so would a run's that has stopped early. A seed
    counts once, as the mean of its runs. An arm that pools settings has a mean where all of its runs have a point.

    Args:
        arm: whose runs they are.
        metric: its tag.
        read: folder, tag -> the curve of a run, by steps or by epochs.
    """
    curves = [(run, read(run.folder, metric)) for run in arm.runs if run.status == "finished" and run.has_curve]
    last = min((max(own) for run, own in curves if run.stopped_at is not None and own), default=math.inf)
    points: dict[float, defaultdict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    for run, own in curves:
        for at, value in own.items():
            if at <= last:
                points[at][run.seed].append(value)
    if arm.pooled:  # where only some of unlike runs have a point, the mean would jump from these to those
        points = {at: seeds for at, seeds in points.items() if sum(map(len, seeds.values())) == len(curves)}
    return {at: mean_over_seeds(seeds, metric) for at, seeds in sorted(points.items())}


def mean_over_seeds(values: Mapping[int, Sequence[float]], metric: str) -> Interval:
    """The mean of seeds, each of which counts once, as the mean of its values."""
    means = [math.fsum(some) / len(some) for some in values.values()]
    return mean_interval(means, bounds=metric_of(metric).bounds)


def write(folder: Path, arms: Sequence[Arm], metric: str) -> None:
    """Write one TensorBoard run for each arm: mean and 95 % interval, with bands under Custom Scalars.

    Raises:
        OSError: the folder cannot be written.
    """
    from bnexp.runs.events import write_bands  # imports torch

    for arm, name in zip(arms, distinct([run_name(arm.label.split(",")) for arm in arms]), strict=True):
        curves = {tag: mean_curve(arm, tag) for tag in dict.fromkeys((metric, *_METRICS))}
        bands = {tag: {int(step): _band(i) for step, i in steps.items()} for tag, steps in curves.items() if steps}
        write_bands(folder / name, bands)


def _band(interval: Interval) -> tuple[float, float, float]:
    """(mean, lower, upper). A single seed has no interval; its band has no width."""
    mean, low, high = interval.mean, interval.low, interval.high
    return mean, mean if low is None else low, mean if high is None else high
