"""Which values of a setting work for an arm: what ``compare --best`` and the claims mean by it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Mapping, Sequence

from bnexp.config.metrics import SPLITS, VALIDATION, metric_of
from bnexp.runs.collect import Setting

# Where nobody says otherwise, an accuracy this far below the arm's best still works.
WITHIN = 0.05

# Value of the setting -> seed -> measured number; None where there is none.
Table = Mapping[Setting, Mapping[int, float | None]]


def on_validation(metric: str) -> str:
    """The metric by which a value is chosen: the same of validation images, or where no split has it, accuracy."""
    split, _, quantity = metric.rpartition("/")
    return f"validation/{quantity}" if split in SPLITS else VALIDATION


def works_by(metric: str) -> str:
    """The metric by which it is told whether a learning rate works: an accuracy, since a loss knows no "as good as"."""
    return on_validation(metric if metric_of(metric).is_proportion else "accuracy")


def working(
    table: Table,
    seed: int,
    *,
    larger: bool,
    within: float = 0.0,
    factor: float = 1.0,
    diverged: Collection[Setting] = (),
    chance: float | None = None,
) -> list[Setting]:
    """The values that work for a seed: its number is at most ``within`` worse than the arm's best mean over seeds.

    Args:
        table: the arm's numbers.
        seed: whose values.
        larger: larger numbers are better.
        within: how much worse than the best mean still works.
        factor: the best mean is multiplied with it first.
        diverged: values at which this seed's run diverged; they never work.
        chance: what guessing scores. Where even the best mean is not more than ``within`` better, nothing works.
    """
    sign = 1 if larger else -1
    best = _best_mean(table, larger)
    if chance is not None and sign * (best - chance) <= within:
        return []
    least = sign * factor * best - within
    numbers = {value: by_seed.get(seed) for value, by_seed in table.items() if value not in diverged}
    return [value for value, number in numbers.items() if number is not None and sign * number >= least]


def _best_mean(table: Table, larger: bool) -> float:
    """The best mean over seeds, of the values at which every seed has a number; without one nothing reaches it."""
    means = [
        statistics.fmean(number for number in by_seed.values() if number is not None)
        for by_seed in table.values()
        if by_seed and None not in by_seed.values()
    ]
    return (max if larger else min)(means, default=math.inf if larger else -math.inf)


def largest_working(values: Sequence[Setting], works: Collection[Setting]) -> Setting:
    """The end of the first stretch of values that work; values below it are too small, and no failures."""
    first = next((index for index, value in enumerate(values) if value in works), None)
    if first is None:
        return None
    end = next((index for index in range(first, len(values)) if values[index] not in works), len(values))
    return values[end - 1]
