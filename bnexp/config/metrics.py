"""Facts about a measured quantity, found by its name: its better direction, its chance level, and its name in words.

A tag is ``split/quantity``. A suffix of the quantity, such as ``_precise`` or ``_ema0.9_corrected``, tells how it was
evaluated and does not change these facts. What a probe measures is ``probe/<probe>/<quantity>``, or with the layer
behind it ``probe/<probe>/<quantity>/<layer>``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """A quantity.

    Attributes:
        words: its name in words.
        larger_is_better: None if unknown.
        chance: number of classes -> the score of guessing; None if guessing has no score.
        bounds: the least and the largest value that it can have.
    """

    words: str = ""
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
    "top5_accuracy": Metric("top-5 accuracy", True, lambda classes: min(5, classes) / classes, bounds=_PROPORTION),
    "accuracy": Metric("accuracy", True, lambda classes: 1 / classes, bounds=_PROPORTION),
    "loss": Metric("loss", False),
    "error": Metric("error", False),
    "perplexity": Metric("perplexity", False),
    "seconds": Metric("seconds", False),
}
_SPLITS = {"train": "training", "train_eval": "training (evaluated)"}
_SUFFIXES = {"precise": "precise statistics", "batch": "batch statistics"}
_ALONE = {"lr": "learning rate"}
# Probe -> quantity -> its name in words.
_PROBES = {
    "covariance": {
        "condition": "condition number of the inputs",
        "rank": "rank of the inputs",
        "effective_rank": "effective rank of the inputs",
        "correlation": "mean correlation of the inputs",
    },
    "effective_lr": {
        "rate": "effective learning rate",
        "angle": "angle of a step (radians)",
        "growth": "growth of the squared length",
        "growth_orthogonal": "growth by orthogonal steps",
    },
    "eval_mismatch": {
        "accuracy": "accuracy by kind of statistics",
        "mean": "error of running means (sd)",
        "var": "error of running variances (log)",
    },
    "gradients": {
        "norm": "gradient of the weights",
        "relative": "gradient over weight",
        "update": "update over weight",
        "activation": "gradient of the activations",
        "slope": "decades per layer, weights",
        "slope_activation": "decades per layer, activations",
        "coherence": "coherence of micro-batches",
    },
    "ics": {
        "l2": "change of the gradient",
        "relative": "relative change of the gradient",
        "cosine": "cosine of old and new gradient",
        "coupling": "relative change of the input",
        "distribution": "shift of the distribution (sd)",
    },
    "quantiles": {
        "drift_med": "drift of the medians",
        "drift_iqr": "drift of the spread (log)",
        "drift_normalized": "drift of the medians over the spread",
        **{f"q{level}": f"{level} % quantile of the pre-activation" for level in (15, 50, 85)},
        **{f"unit_q{level}": f"{level} % quantile of one unit" for level in (15, 50, 85)},
    },
    "saturation": {
        "saturated": "share of saturated outputs",
        "zeros": "share of outputs that are 0",
        "dead": "share of dead units",
        "constant": "share of constant units",
        "gain": "mean squared slope of the activation",
    },
    "sharpness": {"lambda_max": "largest eigenvalue of the Hessian"},
    "signal": {
        "mean": "mean of the activations",
        "rms": "root mean square of the activations",
        "cosine": "cosine between images",
        "growth": "growth of the gradient backwards",
    },
    "weight_norms": {"weight": "norm of the weight", "row": "median norm of a row", "gain": "median gain of the norm"},
}
# Quantities of probes that have a kind where others have a layer.
_BY_KIND = {("eval_mismatch", "accuracy")}


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


def title(tag: str) -> str:
    """A tag in words, such as "test accuracy, precise statistics"; of a probe's quantity without the layer."""
    if probed := probed_of(tag):
        return _PROBES.get(probed.probe, {}).get(probed.quantity) or _spaced(probed.quantity)
    split, _, quantity = tag.rpartition("/")
    if not split:
        return _ALONE.get(tag, _spaced(tag))
    name = measured_of(tag)
    words = _METRICS[name].words if name in _METRICS else _spaced(name)
    suffix = quantity.removeprefix(name).strip("_")
    added = f", {_SUFFIXES.get(suffix, _spaced(suffix))}" if suffix else ""
    return f"{_SPLITS.get(split, split)} {words}{added}"


def measured_of(tag: str) -> str:
    """A tag's quantity without the suffix that tells how it was evaluated."""
    quantity = tag.rpartition("/")[2]
    return next((name for name in _METRICS if f"{quantity}_".startswith(f"{name}_")), quantity)


def _spaced(name: str) -> str:
    return name.replace("_", " ")


@dataclass(frozen=True)
class Probed:
    """What a probe measures; ``layer`` is empty for the whole network."""

    probe: str
    quantity: str
    layer: str

    @property
    def has_layers(self) -> bool:
        """Whether the quantity is one of a layer."""
        return bool(self.layer) and (self.probe, self.quantity) not in _BY_KIND


def probed_of(tag: str) -> Probed | None:
    """The parts of ``probe/<probe>/<quantity>[/<layer>]``; None for another tag."""
    root, *parts = tag.split("/", 3)
    if root != "probe" or len(parts) < 2:
        return None
    return Probed(parts[0], parts[1], "".join(parts[2:]))
