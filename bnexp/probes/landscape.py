"""The loss along the gradient: how far the gradient predicts it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from bnexp.config.checks import PositiveFloat, Some
from bnexp.probes.base import PROBES, Moment, Probe, Values, flat, l2_norm
from bnexp.probes.gradients import loss_and_gradient
from bnexp.probes.invariance import scale_invariant

# What the lengths of steps are given in: t in multiples of the learning rate, or the distance ||t g||.
Unit = Literal["lr", "distance"]


@dataclass(frozen=True)
class Line:
    """The loss at theta - t g for several t, with g the gradient at theta.

    Attributes:
        loss_T: L(theta - t g).
        change_T: ||grad L(theta - t g) - g||.
        slope: ||g||.
        beta: max over t of ||grad L(theta - t g) - g|| / ||t g||.
    """

    loss_T: Tensor
    change_T: Tensor
    slope: Tensor
    beta: Tensor


def along_gradient(moment: Moment, names: Sequence[str], steps: Sequence[float], unit: Unit = "lr") -> Line:
    """Take steps against the gradient in the named parameters, the others fixed, on the step's batch.

    Args:
        moment: the step.
        names: of the parameters that move.
        steps: how far, each above 0.
        unit: what ``steps`` are given in.
    """
    _, gradient = loss_and_gradient(moment, names, moment.x_B, moment.y_B)
    slope = l2_norm(flat(gradient))
    scale = moment.lr if unit == "lr" else (1 / slope.item() if slope > 0 else 0.0)
    lengths, losses, changes = [step * scale for step in steps], [], []
    for t in lengths:
        moved = {name: moment.before[name] - t * g for name, g in zip(names, gradient, strict=True)}
        with moment.at(moved):
            loss, there = loss_and_gradient(moment, names, moment.x_B, moment.y_B)
        losses.append(loss)
        changes.append(l2_norm(flat(there) - flat(gradient)))
    change_T = torch.stack(changes)
    return Line(torch.stack(losses), change_T, slope, (change_T / (change_T.new_tensor(lengths) * slope)).max())


class Landscape(Probe):
    """See ``landscape``."""

    def __init__(self, model: nn.Module, images: Tensor, steps: Sequence[float], unit: Unit) -> None:
        super().__init__()
        self.steps, self.unit = steps, unit
        self.invariant = scale_invariant(model, images)

    def measure(self, moment: Moment) -> Values:
        """Range of the loss, change of the gradient, and smoothness along the gradient."""
        line = along_gradient(moment, list(moment.before), self.steps, self.unit)
        median = line.change_T.quantile(0.5)
        values: Values = {
            "loss_min": line.loss_T.min().item(),
            "loss_max": line.loss_T.max().item(),
            "predictiveness_max": line.change_T.max().item(),
            "predictiveness_median": median.item(),
            "relative_predictiveness_max": (line.change_T.max() / line.slope).item(),
            "relative_predictiveness_median": (median / line.slope).item(),
            "beta": line.beta.item(),
        }
        if self.invariant:
            square = l2_norm(flat(moment.before[name] for name in self.invariant)) ** 2
            line = along_gradient(moment, self.invariant, self.steps, self.unit)
            values["beta_invariant"] = (line.beta * square).item()
        return values


@PROBES.register("landscape")
def landscape(model: nn.Module, images: Tensor, *, steps: Some[PositiveFloat], unit: Unit) -> Probe:
    """The loss L of the step's batch and its gradient at theta - t g, g the gradient at theta, for several lengths t.

    ``loss_min``, ``loss_max``: the range of L(theta - t g); ``predictiveness``: ||grad L(theta - t g) - g||, its
    maximum and median over t; ``relative_predictiveness``: the same / ||g||; ``beta`` = max over t of
    ||grad L(theta - t g) - g|| / ||t g||, the effective smoothness (Santurkar et al. 2018, sec. 3.1 and fig. 4).

    ``beta_invariant`` = beta ||w||^2, with w all scale-invariant weights, and steps in these weights only. If w is
    rescaled, the network computes the same and ``beta`` changes, but ``beta_invariant`` does not if the lengths t are
    rescaled too. Networks without scale-invariant weights do not have it.

    Options:
        steps: how far. Each costs a forward and a backward pass, and again as much for ``beta_invariant``.
        unit: what ``steps`` are given in. ``lr``: t in multiples of the step's learning rate. ``distance``: how far the
            parameters move, ||t g||; it is the same for networks whose learning rates and gradients differ.
    """
    return Landscape(model, images, steps, unit)
