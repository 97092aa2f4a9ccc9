"""What all evaluations share: the registry, the options that each has, and images as pixels.

An evaluation is a choice of splits, conditions and statistics; in each combination of these it measures its quantities.
A metric is called by what was measured where: ``split/quantity[_condition][_statistics]``, see ``config.metrics``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from bnexp.config.checks import Some, require_groups
from bnexp.config.metrics import Statistics, statistics_of
from bnexp.config.registry import Registry
from bnexp.data import Data
from bnexp.norms.base import per_channel
from bnexp.training.evaluation import Attack

# ``train_eval`` are the training images that evaluations read (``eval_train``), without augmentation.
SplitName = Literal["train_eval", "validation", "test"]
Quantity = Literal["loss", "accuracy", "ece"]

_WORDS = (
    "running, precise, batch[<n>[prior<N>]][sorted], tent<n>[sorted], own[<weight>], ema<decay>, ema_weights; "
    "n and N count images"
)


@dataclass(frozen=True)
class Measured:
    """The options that every evaluation has.

    Attributes:
        splits: the images.
        statistics: words that ``statistics_of`` reads; those of ``ema`` and ``ema_weights`` need these settings.
        quantities: ``loss`` is the mean cross-entropy in nats, which is the negative log-likelihood (NLL); ``ece`` is
            the expected calibration error with 15 intervals.
    """

    splits: Some[SplitName]
    statistics: Some[str]
    quantities: Some[Quantity]


# Builders are called with the ``Pixels`` of a run's data, and return ``Condition``s.
EVALUATIONS = Registry("evaluations", shared=Measured)


@dataclass(frozen=True, eq=False)
class Condition:
    """How images are changed before the model sees them.

    Attributes:
        name: in names of metrics; empty for images that are not changed.
        change: pixels [N, C, H, W] or [N, F] between 0 and 1 -> changed pixels; the same for all members.
        attack: changes the inputs of each member, knowing the member.
        classes: only images of these classes are measured, and answered among them; None means all.
    """

    name: str = ""
    change: Callable[[Tensor], Tensor] | None = None
    attack: Attack | None = None
    classes: tuple[int, ...] | None = None


@dataclass(frozen=True, eq=False)
class Pixels:
    """Inputs of a model as pixels between 0 and 1: input = (pixel - mean) / std.

    Attributes:
        data: the data set.
        whiten: the option ``data.whiten``.
    """

    data: Data
    whiten: str = "none"

    def require(self, word: str) -> None:
        """Refuse inputs that are no scaled pixels between 0 and 1.

        Raises:
            ValueError: pixels are mixed by ``data.whiten``, or have other values.
        """
        if self.whiten != "none":
            raise ValueError(f"evaluations=[{word}]: changes pixels, which data.whiten={self.whiten} has mixed")
        for name, split in self.data.splits().items():
            axes = [axis for axis in range(split.x.ndim) if axis != 1]
            ends = torch.stack([split.x.amin(axes), split.x.amax(axes)])
            low, high = self.shown(ends).aminmax()
            if low < -1e-3 or high > 1 + 1e-3:
                found = f"{low:.3g} to {high:.3g}"
                raise ValueError(f"evaluations=[{word}]: needs pixels between 0 and 1, and {name} images have {found}")

    def shown(self, x: Tensor) -> Tensor:
        """The pixels of inputs (N, C, ...)."""
        return x * self._scale(self.data.std, x) + self._scale(self.data.mean, x)

    def scaled(self, pixels: Tensor) -> Tensor:
        """The inputs of pixels (N, C, ...)."""
        return (pixels - self._scale(self.data.mean, pixels)) / self._scale(self.data.std, pixels)

    def _scale(self, values: Sequence[float], x: Tensor) -> Tensor:
        return per_channel(torch.tensor(values, dtype=torch.float64).to(x), x)


@dataclass(frozen=True)
class Wanted:
    """An evaluation with its settings from the config.

    Attributes:
        word: the setting's name in ``evaluations``.
        splits, quantities: see ``Measured``.
        statistics: what the words mean.
        conditions: pixels -> the conditions.
    """

    word: str
    splits: Sequence[str]
    statistics: Sequence[Statistics]
    quantities: Sequence[str]
    conditions: Callable[[Pixels], Sequence[Condition]]

    def only(self, split: str) -> Wanted:
        """The same on one split, if it is one of its splits."""
        return replace(self, splits=[name for name in self.splits if name == split])


def wanted(groups: Mapping[str, Any]) -> list[Wanted]:
    """Check the group ``evaluations`` of a config, word -> its options.

    Raises:
        ValueError: an unknown evaluation or option, a missing option, a value that is not allowed.
    """
    require_groups("evaluations", groups)
    return [_wanted(word, group) for word, group in groups.items()]


def _wanted(word: str, group: Any) -> Wanted:
    bound = EVALUATIONS.bind({"name": word, **group}, setting=f"evaluations.{word}")
    shared: Measured = bound.shared
    statistics = []
    for each in shared.statistics:
        found = statistics_of(each)
        if found is None or found.word != each:
            raise ValueError(f"evaluations.{word}.statistics={each}: not known (allowed: {_WORDS})")
        statistics.append(found)
    return Wanted(word, shared.splits, statistics, shared.quantities, bound)


def evaluation(splits: Sequence[str], statistics: Sequence[Statistics]) -> Wanted:
    """Loss and accuracy on images that are not changed, as every run measures them."""
    return Wanted("", splits, statistics, ("loss", "accuracy"), lambda pixels: [Condition()])
