"""Facts about a measured quantity, found by its name: its better direction, its chance level, and its name in words.

What an evaluation measures is ``split/quantity[_condition][_statistics]``, as in ``test/accuracy_noise3_batch64``: the
condition says how the images were changed, the statistics what norms evaluated with; see ``Evaluated`` and
``Statistics``. They do not change the facts. What a probe measures is ``probe/<probe>/<quantity>``, or with the layer
behind it ``probe/<probe>/<quantity>/<layer>``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from bnexp.config.checks import near_miss


@dataclass(frozen=True)
class Metric:
    """A quantity.

    Attributes:
        words: its name in words.
        larger_is_better: None if unknown.
        chance: number of classes -> the score of guessing; None if guessing has no score.
        bounds: the least and the largest value that it can have.
        is_proportion: whether it is a share of the images, shown in percentage points.
    """

    words: str = ""
    larger_is_better: bool | None = None
    chance: Callable[[int], float] | None = None
    bounds: tuple[float, float] = (-math.inf, math.inf)
    is_proportion: bool = False


def _share(words: str, chance: Callable[[int], float]) -> Metric:
    return Metric(words, True, chance, bounds=(0.0, 1.0), is_proportion=True)


SPLITS = ("train", "train_eval", "validation", "test")
# The metric by which a checkpoint is the best, and a run ends early: never one of the test images.
VALIDATION = "validation/accuracy"

_UNKNOWN = Metric()
# A quantity takes the first entry whose name is among its words.
_METRICS = {
    "top5_accuracy": _share("top-5 accuracy", lambda classes: min(5, classes) / classes),
    "accuracy": _share("accuracy", lambda classes: 1 / classes),
    "ece": Metric("calibration error", False, bounds=(0.0, 1.0)),
    "loss": Metric("loss", False),
    "error": Metric("error", False),
    "perplexity": Metric("perplexity", False),
    "seconds": Metric("seconds", False),
}
_SPLITS = {"train": "training", "train_eval": "training (evaluated)"}
# Beginning of a condition's name -> the condition in words; what follows in the name is a number.
_CONDITIONS = {
    **{kind: f"{kind} of severity" for kind in ("noise", "blur", "contrast", "brightness")},
    **{"*": "corruptions of severity", "fgsm": "FGSM of epsilon", "pgd": "PGD of epsilon", "task": "task"},
}
_ALONE = {"lr": "learning rate"}
# Probe -> quantity -> its name in words.
_PROBES = {
    "attention": {"logit": "largest attention logit", "entropy": "entropy of the attention (nats)"},
    "boundaries": {
        "distance": "distance to the switching of a unit",
        "nearest": "distance to the nearest switching of a unit",
    },
    "convergence": {"left": "share of the way to the present weights"},
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
    "landscape": {
        "loss_min": "least loss along the gradient",
        "loss_max": "largest loss along the gradient",
        "predictiveness_max": "largest change of the gradient",
        "predictiveness_median": "median change of the gradient",
        "relative_predictiveness_max": "largest relative change of the gradient",
        "relative_predictiveness_median": "median relative change of the gradient",
        "beta": "change of the gradient over the distance (beta)",
        "beta_invariant": "change of the gradient over the distance, by weight scale",
    },
    "quantiles": {
        "drift_med": "drift of the medians",
        "drift_iqr": "drift of the spread (log)",
        "drift_normalized": "drift of the medians over the spread",
        "jitter": "change of the medians between measurements over the spread",
        **{f"q{level}": f"{level} % quantile of the pre-activation" for level in (15, 50, 85)},
        **{f"unit_q{level}": f"{level} % quantile of one unit" for level in (15, 50, 85)},
    },
    "rank": {"effective": "effective rank of the features", "participation": "participation ratio of the features"},
    "saturation": {
        "saturated": "share of saturated outputs",
        "zeros": "share of outputs that are 0",
        "dead": "share of dead units",
        "constant": "share of constant units",
        "gain": "mean squared slope of the activation",
    },
    "shattering": {
        "neighbours": "cosine of gradients at neighbouring inputs",
        "images": "cosine of gradients at different images",
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


def require_measured(where: str, tag: str) -> None:
    """Refuse what looks like a loss or an accuracy of a split, and is none that a run measures.

    Raises:
        ValueError: there is no such quantity.
    """
    split, _, quantity = tag.rpartition("/")
    if split in SPLITS and metric_of(tag) == _UNKNOWN:
        known = [f"{split}/{name}" for name in _METRICS]
        raise ValueError(f"{where}: no run measures {quantity}{near_miss(tag, known)}")


def larger_is_better(tag: str) -> bool:
    """True if larger values are better; also for an unknown quantity, see ``better_when_larger``."""
    return better_when_larger(tag) is not False


def better_when_larger(tag: str) -> bool | None:
    """Whether larger values are better; None for an unknown quantity, unless its tag names one like loss or error."""
    known = metric_of(tag).larger_is_better
    if known is None and any(name in tag for name, metric in _METRICS.items() if metric.larger_is_better is False):
        return False
    return known


def title(tag: str) -> str:
    """A tag in words, such as "test accuracy, precise statistics"; of a probe's quantity without the layer."""
    if probed := probed_of(tag):
        return _PROBES.get(probed.probe, {}).get(probed.quantity) or _spaced(probed.quantity)
    split = tag.rpartition("/")[0]
    if not split:
        return _ALONE.get(tag, _spaced(tag))
    parts = evaluated_of(tag)
    words = _METRICS[parts.quantity].words if parts.quantity in _METRICS else _spaced(parts.quantity)
    added = [_condition_title(parts.condition), "" if parts.statistics == RUNNING else parts.statistics.title]
    return ", ".join([f"{_SPLITS.get(split, split)} {words}", *filter(None, added)])


def _condition_title(condition: str) -> str:
    match = re.fullmatch(r"([a-z]+|\*)([\d.e-]+)", condition)
    known = match and _CONDITIONS.get(match[1])
    return f"{known} {match[2]}" if match and known else _spaced(condition)


def measured_of(tag: str) -> str:
    """A tag's quantity without the suffixes that tell how it was evaluated."""
    quantity = tag.rpartition("/")[2]
    return next((name for name in _METRICS if f"{quantity}_".startswith(f"{name}_")), quantity)


@dataclass(frozen=True)
class Statistics:
    """The statistics that batch norms evaluate with, by a word of ``evaluations.<name>.statistics``.

    ===================== ==============================================================================================
    running               the running averages; names of metrics leave this word out
    precise               those of the training images under the present weights
    batch<n>              those of each batch of n images; ``batch`` alone: as many as in a training batch
    batch<n>prior<N>      running and batch statistics, weighted as N and n images
    tent<n>               those of each batch; besides, gains and biases learn after each batch by its entropy
    batch..sorted         of batches from images that are sorted by class, not mixed; also ``tent<n>sorted``
    own<w>                running averages of E[x] and E[x^2], with the weight w of the image's own (Summers & Dinneen
                          2020); ``own`` alone: with the weight that has the least loss on validation images
    ema<d>[_corrected]    a further running average, of the setting ``ema``
    ema_weights           precise statistics under the averaged weights of the setting ``ema_weights``
    ===================== ==============================================================================================

    Attributes:
        kind: the word without its numbers.
        images: n; 0 where the word names none.
        prior: N.
        decay: d.
        corrected: see ``bnexp.training.ema``.
        by_class: the images are sorted by class.
        weight: w; 0 where the word names none.
    """

    kind: str
    images: int = 0
    prior: int = 0
    decay: float = 0.0
    corrected: bool = False
    by_class: bool = False
    weight: float = 0.0

    @property
    def by_batch(self) -> bool:
        """Whether the images of a batch are evaluated by one another's statistics."""
        return self.kind in ("batch", "tent")

    @property
    def word(self) -> str:
        """The word that ``statistics_of`` reads."""
        if self.kind == "ema":
            return f"ema{self.decay}{'_corrected' if self.corrected else ''}"
        number = self.images or self.weight or ""
        prior, order = f"prior{self.prior}" if self.prior else "", "sorted" if self.by_class else ""
        return f"{self.kind}{number}{prior}{order}"

    @property
    def title(self) -> str:
        """The statistics in words."""
        size = (f" of {self.images} images" if self.images else "") + (" of few classes" if self.by_class else "")
        if self.kind == "batch":
            return f"batch statistics{size}" + (f" and a prior of {self.prior}" if self.prior else "")
        titles = {
            "ema": f"running average with decay {self.decay:g}{', corrected' if self.corrected else ''}",
            "ema_weights": "averaged weights",
            "precise": "precise statistics",
            "tent": f"adapted by the entropy of batches{size}",
            "own": f"own image weighed {self.weight or 'by validation'}",
        }
        return titles.get(self.kind, _spaced(self.word))


RUNNING = Statistics("running")
_STATISTICS = re.compile(
    r"(?P<kind>running|precise|ema_weights)|ema(?P<decay>[\d.e-]*\d)(?P<corrected>_corrected)?|own(?P<weight>0?\.\d+)?"
    r"|(?:(?P<batch>batch)(?:(?P<n>[1-9]\d*)(?:prior(?P<prior>[1-9]\d*))?)?|tent(?P<tent>[1-9]\d*))(?P<sorted>sorted)?"
)


def statistics_of(word: str) -> Statistics | None:
    """What a word of ``Statistics`` means; None for another word."""
    found = _STATISTICS.fullmatch(word)
    if found is None:
        return None
    if found["batch"]:
        return Statistics("batch", int(found["n"] or 0), int(found["prior"] or 0), by_class=bool(found["sorted"]))
    if found["tent"]:
        return Statistics("tent", int(found["tent"]), by_class=bool(found["sorted"]))
    if word.startswith("own"):
        return Statistics("own", weight=float(found["weight"] or 0))
    if found["decay"]:
        return Statistics("ema", decay=float(found["decay"]), corrected=bool(found["corrected"]))
    return Statistics(found["kind"])


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation measures: the parts of its tag.

    Attributes:
        split: ``train_eval``, ``validation`` or ``test``.
        quantity: ``accuracy``, say.
        condition: how the images were changed, such as ``noise3``; empty for the images themselves.
        statistics: see ``Statistics``.
    """

    split: str
    quantity: str
    condition: str = ""
    statistics: Statistics = RUNNING

    @property
    def tag(self) -> str:
        """The name of the metric."""
        statistics = "" if self.statistics == RUNNING else self.statistics.word
        return f"{self.split}/{'_'.join(filter(None, (self.quantity, self.condition, statistics)))}"


def evaluated_of(tag: str) -> Evaluated:
    """The parts of ``split/quantity[_condition][_statistics]``."""
    quantity, split = measured_of(tag), tag.rpartition("/")[0]
    words = tag.rpartition("/")[2].removeprefix(quantity).removeprefix("_").split("_")
    for first in range(len(words)):
        statistics = statistics_of("_".join(words[first:]))
        if statistics is not None:
            return Evaluated(split, quantity, "_".join(words[:first]), statistics)
    return Evaluated(split, quantity, "_".join(words))


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
