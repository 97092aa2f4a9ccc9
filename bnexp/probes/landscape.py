"""The loss along the gradient: how far the gradient predicts it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from bnexp.probes.base import PROBES, Moment, Probe, Values
from bnexp.probes.gradients import loss_and_gradient
from bnexp.probes.invariance import scale_invariant


@dataclass(frozen=True)
class Line:
    """The loss at theta - t g for step lengths t, with g the gradient at theta.

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


def along_gradient(moment: Moment, names: Sequence[str], lengths: Sequence[float]) -> Line:
    """Take steps against the gradient in the named parameters, the others fixed, on the step's batch."""
    _, gradient = loss_and_gradient(moment, names, moment.x_B, moment.y_B)
    losses, changes = [], []
    for length in lengths:
        moved = {name: moment.before[name] - length * g for name, g in zip(names, gradient, strict=True)}
        with moment.at(moved):
            loss, there = loss_and_gradient(moment, names, moment.x_B, moment.y_B)
        losses.append(loss)
        changes.append(get_total_norm([new - old for new, old in zip(there, gradient, strict=True)]))
    change_T, slope = torch.stack(changes), get_total_norm(gradient)
    return Line(torch.stack(losses), change_T, slope, (change_T / (change_T.new_tensor(lengths) * slope)).max())


class Landscape(Probe):
    """See ``landscape``."""

    def __init__(self, model: nn.Module, images: Tensor, steps: Sequence[float]) -> None:
        super().__init__()
        self.steps = steps
        self.invariant = scale_invariant(model, images)

    def measure(self, moment: Moment) -> Values:
        """Range of the loss, change of the gradient, and smoothness along the gradient."""
        lengths = [step * moment.lr for step in self.steps]
        line = along_gradient(moment, list(moment.before), lengths)
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
            square = get_total_norm([moment.before[name] for name in self.invariant]) ** 2
            line = along_gradient(moment, self.invariant, lengths)
            values["beta_invariant"] = (line.beta * square).item()
        return values


@PROBES.register("landscape")
def landscape(model: nn.Module, images: Tensor, *, steps: list[float]) -> Probe:
    """The loss L of the step's batch and its gradient at theta - t g, g the gradient at theta, for several lengths t.

    ``loss_min``, ``loss_max``: the range of L(theta - t g); ``predictiveness``: ||grad L(theta - t g) - g||, its
    maximum and median over t; ``relative_predictiveness``: the same / ||g||; ``beta`` = max over t of
    ||grad L(theta - t g) - g|| / ||t g||, the effective smoothness (Santurkar et al. 2018, sec. 3.1 and fig. 4).

    ``beta_invariant`` = beta ||w||^2, with w all scale-invariant weights, and steps in these weights only. If w is
    rescaled, the network computes the same and ``beta`` changes, but ``beta_invariant`` does not if the lengths t are
    rescaled too. Networks without scale-invariant weights do not have it.

    Options:
        steps: the lengths t, in multiples of the step's learning rate. Each costs a forward and a backward pass, and
            again as much for ``beta_invariant``.

    Raises:
        ValueError: the list is empty, or a length is not above 0.
    """
    if not steps or min(steps) <= 0:
        raise ValueError(f"probes.landscape.steps={steps}: expected multiples of the learning rate, each above 0")
    return Landscape(model, images, steps)
