"""Internal covariate shift: how updating the layers below a layer changes its gradient, input and distribution."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

import torch
from torch import Tensor, nn

from bnexp.config.checks import Positive
from bnexp.models.layers import Layer
from bnexp.probes.base import PROBES, UNSEEN, Moment, Probe, Values, flat, recording, require_layers, signals
from bnexp.probes.gradients import loss_and_gradient
from bnexp.randomness import generator


def spread(count: int, most: int) -> list[int]:
    """``most`` of the indices 0 to count - 1, evenly spaced with both ends (1: the last); all if fewer."""
    if most == 1:
        return [count - 1]
    return torch.linspace(0, count - 1, min(most, count)).round().long().tolist()


def wasserstein(first_US: Tensor, second_US: Tensor) -> Tensor:
    """Wasserstein-1 distance per unit between two samples of equal size, divided by the pooled standard deviation.

    W1 = mean_s |sorted first - sorted second|; the pooled sd is sqrt((var_1 + var_2) / 2), variances biased. Returns
    [U]; nan where the pooled sd is 0.
    """
    distance_U = (first_US.sort(1).values - second_US.sort(1).values).abs().mean(1)
    pooled_U = ((first_US.var(1, correction=0) + second_US.var(1, correction=0)) / 2).sqrt()
    return distance_U / pooled_U.where(pooled_U > 0, torch.nan)


class _Sample:
    """Some units of a layer's pre-activation, at one position of each image; the positions are drawn once.

    Args:
        z: a pre-activation, (P, C, ...).
        units: number of channels, evenly spaced.
        name: the layer's name; the positions depend on it.
    """

    def __init__(self, z: Tensor, units: int, name: str) -> None:
        positions = z[0, 0].numel()
        drawn = torch.randint(positions, (len(z),), generator=generator(0, "ics", name))
        self.images, self.positions = torch.arange(len(z), device=z.device), drawn.to(z.device)
        self.units = torch.tensor(spread(z.shape[1], units), device=z.device)

    def take(self, z: Tensor) -> Tensor:
        """The sample of a pre-activation, [units, P]."""
        z_PCS = z.detach().reshape(*z.shape[:2], -1)
        return z_PCS[self.images, :, self.positions][:, self.units].T


class CovariateShift(Probe):
    """See ``ics``."""

    def __init__(self, model: nn.Module, images: Tensor, most: int, units: int) -> None:
        super().__init__()
        seen = signals(model, images)
        found = require_layers("ics", model).items()
        own = [layer for name, layer in found if layer.parameters and name in seen.inputs]
        if len(own) < 2:
            raise ValueError("probes=[ics]: this model has a single layer, and none below it; use a deeper one")
        # No layer lies below the first layer, so its shift is 0.
        chosen = [number + 1 for number in spread(len(own) - 1, most)]
        self.layers = {own[number].name: list(own[number].parameters) for number in chosen}
        self.below = {own[number].name: _parameters(own[:number]) for number in chosen}
        before = {name: seen.before[name] for name in self.layers if name in seen.before}
        self.samples = {name: _Sample(z, units, name) for name, z in before.items()}
        self.slots = {name: self.samples[name].take(z) * torch.nan for name, z in before.items()}
        if not seen.before:
            self.left_out.append(f"{UNSEEN}; distribution is left out")

    def measure(self, moment: Moment) -> Values:
        """The shift of each chosen layer in this step, and the shift of its distribution since the last measurement."""
        with recording(moment.model) as recorded:
            _, gradient = loss_and_gradient(moment, chain(*self.layers.values()), moment.x_B, moment.y_B)
        old = dict(zip(chain(*self.layers.values()), gradient, strict=True))
        values: Values = {}
        for name, parameters in self.layers.items():
            values |= self._of_step(moment, name, [old[parameter] for parameter in parameters], recorded.inputs[name])
        return values | self._of_distributions(moment)

    def _of_step(self, moment: Moment, name: str, gradient: list[Tensor], a: Tensor) -> dict[str, float]:
        """Compare a layer's gradient and input before and after the update of the layers below it."""
        with moment.at({below: moment.after[below] for below in self.below[name]}), recording(moment.model) as recorded:
            _, there = loss_and_gradient(moment, self.layers[name], moment.x_B, moment.y_B)
        old, new = flat(gradient).double(), flat(there).double()  # as in ``l2_norm``
        return {
            f"l2/{name}": (new - old).norm().item(),
            f"relative/{name}": ((new - old).norm() / old.norm()).item(),
            f"cosine/{name}": ((old @ new) / (old.norm() * new.norm())).item(),
            f"coupling/{name}": ((recorded.inputs[name] - a).norm() / a.norm()).item(),
        }

    def _of_distributions(self, moment: Moment) -> Values:
        before = signals(moment.model, moment.images).before
        values: Values = {}
        for name, sample in self.samples.items():
            now = sample.take(before[name])
            distance_U = wasserstein(self.slots[name], now)
            values |= {f"distribution/{name}": distance_U.nanmean().item(), f"distances/{name}": distance_U}
            self.slots[name].copy_(now)
        return values


def _parameters(some: Iterable[Layer]) -> list[str]:
    return [name for layer in some for name in layer.parameters]


@PROBES.register("ics")
def ics(model: nn.Module, images: Tensor, *, layers: Positive, units: Positive) -> Probe:
    """Internal covariate shift of some layers i, by three definitions.

    In gradients (Santurkar et al. 2018, def. 2.1), on the step's batch: G = dL/dW_i at the weights before the step; G'
    is the same gradient with the layers below i (1 to i - 1) after the optimizer's step. W_i are all parameters of a
    layer, including its norm's. ``l2`` = ||G' - G||, ``relative`` = ||G' - G|| / ||G||, ``cosine`` of G and G'. Without
    shift they are 0, 0 and 1. Compare networks by the last two, because a gradient's length depends on the weights'.

    In the input a of the layer, in the same two passes: ``coupling`` = ||a' - a|| / ||a||.

    In distributions (the change that Ioffe & Szegedy 2015, sec. 2, call by this name): ``distribution``, of the
    pre-activations on the probe batch now and when they were measured before: Wasserstein-1 distance of each unit over
    its pooled sd, averaged over units, and of all units as a histogram (``distances``); nan at the first time. Units
    that are constant are left out. The output layer has none, and a model whose activations are no modules has none at
    all, which a line says.

    A weight that layers share belongs to the first of them.

    Options:
        layers: number of layers, evenly spaced from the second to the last. Each costs a forward and a backward pass.
        units: number of channels whose distribution is measured, evenly spaced; in feature maps, at one position of
            each image, drawn once.

    Raises:
        ValueError: the model has a single layer.
    """
    return CovariateShift(model, images, layers, units)
