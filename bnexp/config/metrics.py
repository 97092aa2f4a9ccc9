"""What is known of a measured quantity by its name: which way it points, what guessing scores, how it is shown.

A tag is ``split/quantity``. What comes behind the quantity, such as ``_precise`` or ``_ema0.9_corrected``, says how it
was evaluated and changes nothing of this.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """A quantity.

    Attributes:
        larger_is_better: None where nobody can tell.
        chance: number of classes -> what guessing scores; None where guessing has no score.
        bounds: what it cannot lie outside of.
    """

    larger_is_better: bool | None = None
    chance: Callable[[int], float] | None = None
    bounds: tuple[float, float] = (-math.inf, math.inf)

    @property
    def is_proportion(self) -> bool:
        """Whether it is a share of the images, shown in percentage points."""
        return self.bounds == _PROPORTION


_PROPORTION = (0.0, 1.0)

_UNKNOWN = Metric()
# The first whose name is among the words of a quantity is meant.
_METRICS = {
    "top5_accuracy": Metric(True, lambda classes: min(5, classes) / classes, bounds=_PROPORTION),
    "accuracy": Metric(True, lambda classes: 1 / classes, bounds=_PROPORTION),
    "loss": Metric(False),
    "error": Metric(False),
    "perplexity": Metric(False),
    "seconds": Metric(False),
}


def metric_of(tag: str) -> Metric:
    """What is known of a tag's quantity; nothing of a quantity that is not in the table."""
    words = f"_{tag.rpartition('/')[2]}_"
    return next((metric for name, metric in _METRICS.items() if f"_{name}_" in words), _UNKNOWN)


def larger_is_better(tag: str) -> bool:
    """Which way a tag points; one that nothing is known of points up, unless it is about something that points down."""
    known = metric_of(tag).larger_is_better
    if known is not None:
        return known
    return not any(name in tag for name, metric in _METRICS.items() if metric.larger_is_better is False)
