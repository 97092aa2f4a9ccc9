"""The effective learning rate of scale-invariant weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bnexp.probes.base import PROBES, Moment, Probe, Values, require_layers
from bnexp.probes.invariance import weight_names


def angles(before_RN: Tensor, after_RN: Tensor) -> Tensor:
    """The angle between each row before and after, [R], in radians.

    2 atan2(||u - v||, ||u + v||) of the unit vectors (Kahan 2006, sec. 12): arccos would lose small angles to rounding.
    """
    u, v = (rows / rows.norm(dim=1, keepdim=True) for rows in (before_RN, after_RN))
    return 2 * torch.atan2((u - v).norm(dim=1), (u + v).norm(dim=1))


def _rows(weight: Tensor) -> Tensor:
    """One row per output unit, in float64: a step changes a row's length by less than float32 resolves."""
    return weight.flatten(1).double()


class EffectiveRate(Probe):
    """See ``effective_lr``."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.weights = weight_names(require_layers("effective_lr", model))

    def measure(self, moment: Moment) -> Values:
        """Medians over the rows of every layer's weight, and a histogram of the angles."""
        values: Values = {}
        for name, weight in self.weights.items():
            w, new, g = (_rows(stage[weight]) for stage in (moment.before, moment.after, moment.gradient))
            square = w.square().sum(1)
            rows = {
                "rate": moment.lr / square,
                "angle": angles(w, new),
                "growth": new.square().sum(1) / square - 1,
                "growth_orthogonal": moment.lr**2 * g.square().sum(1) / square,
            }
            values |= {f"{quantity}/{name}": row.quantile(0.5).item() for quantity, row in rows.items()}
            values[f"angles/{name}"] = rows["angle"]
        return values


@PROBES.register("effective_lr")
def effective_lr(model: nn.Module, images: Tensor) -> Probe:
    """How far a step turns the weights: medians over the rows w (one output unit each) of each layer's stored weight.

    ``rate`` = lr / ||w||^2, the effective learning rate of a weight whose length does not matter (van Laarhoven 2017);
    ``angle`` = arccos(<w, w'> / (||w|| ||w'||)) in radians, w' after the optimizer's step (Wan et al. 2021: near sqrt(2
    lr weight_decay) in the equilibrium of SGD), with all angles as a histogram; ``growth`` = ||w'||^2 / ||w||^2 - 1;
    ``growth_orthogonal`` = lr^2 ||dL/dw||^2 / ||w||^2, the value of ``growth`` in gradient descent without weight decay
    on a scale-invariant w, whose gradient is orthogonal to it.

    All layers are shown, but for those that share the weight of one before them; for a weight that is not
    scale-invariant the first number is no more than a ratio.
    """
    return EffectiveRate(model)
