"""Facts about a measured quantity, found by its name: its better direction, its chance level, and how to show it.

A tag is ``split/quantity``. A suffix of the quantity, such as ``_precise`` or ``_ema0.9_corrected``, tells how it was
evaluated and does not change these facts.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """A quantity.

    Attributes:
        larger_is_better: None if unknown.
        chance: number of classes -> the score of guessing; None if guessing has no score.
        bounds: the least and the largest value that it can have.
    """

    larger_is_better: bool | None = None
    chance: Callable[[int], float] | None = None
    bounds: tuple[float, float] = (-math.inf, math.inf)

    @property
    def is_proportion(self) -> bool:
        """Whether it is a share of the images, shown in percentage points."""
        return self.bounds == _PROPORTION


_PROPORTION = (0.0, 1.0)

# The metric by which a checkpoint is the best, and a run ends early: never one of the test images.
VALIDATION = "validation/accuracy"

_UNKNOWN = Metric()
# A quantity takes the first entry whose name is among its words.
_METRICS = {
    "top5_accuracy": Metric(True, lambda classes: min(5, classes) / classes, bounds=_PROPORTION),
    "accuracy": Metric(True, lambda classes: 1 / classes, bounds=_PROPORTION),
    "loss": Metric(False),
    "error": Metric(False),
    "perplexity": Metric(False),
    "seconds": Metric(False),
}


def metric_of(tag: str) -> Metric:
    """The facts about a tag's quantity; all unknown if the quantity is not in the table."""
    words = f"_{tag.rpartition('/')[2]}_"
    return next((metric for name, metric in _METRICS.items() if f"_{name}_" in words), _UNKNOWN)


def larger_is_better(tag: str) -> bool:
    """True if larger values are better; also for an unknown quantity, unless its tag names one like loss or error."""
    known = metric_of(tag).larger_is_better
    if known is not None:
        return known
    return not any(name in tag for name, metric in _METRICS.items() if metric.larger_is_better is False)
