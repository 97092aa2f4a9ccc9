"""Which value of a grid a point runs at, and where a grid has to be longer."""

from __future__ import annotations

import math
import statistics as standard
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bnexp.compare.effects import LEARNING_RATES
from bnexp.runs.collect import Setting

# How often the grid of a point is made longer by one value, while its best value lies on its edge.
MOST_EXTENSIONS = 4

# Value -> tuning metric of each tuning seed; None for a run that has none.
Scores = Mapping[Setting, Sequence[float | None]]


@dataclass(frozen=True)
class TunedValue:
    """The value of the tuned setting that a point runs at.

    Attributes:
        means: value, rising, -> mean tuning metric over the tuning seeds; None where a run has no such metric.
        best: the value with the best mean.
        chosen: the middle of the values that are as good as the best.
        at_edge: the best value is the first or last of its grid, so a better one may lie outside.
    """

    means: Mapping[Setting, float | None]
    best: Setting
    chosen: Setting
    at_edge: bool


def choose(scores: Scores, larger: bool) -> TunedValue:
    """Choose by the rule of one standard error (Breiman et al. 1984).

    Next to the value with the best mean, those are as good whose mean is at most one standard error of the best mean
    worse, up to the first that is not. Their middle is chosen, which depends less on the luck of a few seeds than the
    best one does. A value without a mean (a run failed, or diverged and has no chance level) ranks last; of equal
    values the best is inside the grid. Between words there is no middle.
    """
    numbers = [value for value in scores if isinstance(value, int | float)]
    ordered = len(numbers) == len(scores)
    values: list[Setting] = [*sorted(numbers)] if ordered else list(scores)
    means = {value: _mean(scores[value]) for value in values}
    sign = 1 if larger else -1

    def rank(value: Setting) -> tuple[float, bool]:
        mean = means[value]
        return -math.inf if mean is None else sign * mean, value not in (values[0], values[-1])

    best = max(values, key=rank)
    least = rank(best)[0] - _error(scores[best])
    near = _stretch(values, best, {value for value in values if rank(value)[0] >= least}) if ordered else [best]
    middle = near[(len(near) - 1) // 2 : len(near) // 2 + 1]
    at_edge = ordered and len(values) > 1 and best in (values[0], values[-1])  # one value is a choice and no grid
    return TunedValue(means, best, max(middle, key=rank), at_edge)


def _stretch(values: Sequence[Setting], best: Setting, good: set[Setting]) -> list[Setting]:
    """The good values around the best without a gap."""
    first = last = values.index(best)
    while first > 0 and values[first - 1] in good:
        first -= 1
    while last + 1 < len(values) and values[last + 1] in good:
        last += 1
    return list(values[first : last + 1])


def _mean(scores: Sequence[float | None]) -> float | None:
    known = [score for score in scores if score is not None]
    return math.fsum(known) / len(known) if known and len(known) == len(scores) else None


def _error(scores: Sequence[float | None]) -> float:
    """The standard error of a mean; 0 for a single seed, and where there is no mean."""
    known = [score for score in scores if score is not None]
    return standard.stdev(known) / math.sqrt(len(known)) if len(known) == len(scores) > 1 else 0.0


def is_rate(key: str) -> bool:
    """Whether a setting is a learning rate, whose grids can grow: every positive number is one."""
    return key.rpartition(".")[2] in LEARNING_RATES


def beyond(key: str, tuned: TunedValue) -> float | None:
    """The value that makes a grid longer where its best value lies on its edge; None where it cannot be.

    Only grids of learning rates can. The new value goes on with the grid's own steps, so
    that 0.1, 0.3, 1 goes on with 3, and is rounded to two digits.
    """
    values = [value for value in tuned.means if isinstance(value, int | float)]
    if not tuned.at_edge or not is_rate(key) or min(values) <= 0 or len(values) < 2:
        return None
    if tuned.best == values[0]:
        values.reverse()
    step = values[-2] / values[-3] if len(values) > 2 else values[-1] / values[-2]
    more = float(f"{values[-1] * step:.2g}")
    return int(more) if more.is_integer() else more  # 10, as a grid says it, and not 10.0
