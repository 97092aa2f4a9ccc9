"""Adversarial images: small changes that raise the loss most, made with the gradient of each member."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from bnexp.config.checks import Positive, PositiveFloat, Some
from bnexp.evaluations.base import EVALUATIONS, Condition, Pixels
from bnexp.norms.base import per_channel
from bnexp.randomness import derive, uniform
from bnexp.training.losses import each_loss, wide
from bnexp.training.population import Population

Units = Literal["pixel", "standardized"]


@dataclass(frozen=True, eq=False)
class Ascent:
    """Some steps along the sign of the gradient, within a box around each input.

        x <- clip(x + rate * sign(dL/dx)),    |x - x_0| <= epsilon  and  low <= x <= high,    from x_0 or near it

    Attributes:
        epsilon, rate, low, high: [C], in the numbers that the model gets (or [F]).
        steps: how many.
        random_start: begin at x_0 + u, u uniform in [-epsilon, epsilon] and clipped; u depends on an image's place in
            its batch alone, so that all members, and all evaluations, begin at the same points.
    """

    epsilon: Tensor
    rate: Tensor
    low: Tensor
    high: Tensor
    steps: int
    random_start: bool = False

    def __call__(self, population: Population, x_MB: Tensor, y_MB: Tensor) -> Tensor:
        """The attacked inputs of every member."""
        epsilon, rate, low, high = (
            per_channel(each, x_MB[0]) for each in (self.epsilon, self.rate, self.low, self.high)
        )
        least, most = (x_MB - epsilon).maximum(low), (x_MB + epsilon).minimum(high)
        moved_MB = (x_MB + epsilon * _start(x_MB)).maximum(least).minimum(most) if self.random_start else x_MB
        for _ in range(self.steps):
            moved_MB = moved_MB + rate * input_gradient(population, moved_MB, y_MB).sign()
            moved_MB = moved_MB.maximum(least).minimum(most)
        return moved_MB


def _start(x_MB: Tensor) -> Tensor:
    """Numbers in [-1, 1) of the shape of a member's inputs, always the same."""
    key = torch.full((), derive(0, "pgd"), device=x_MB.device)
    return 2 * uniform(key, torch.zeros_like(key), x_MB.shape[1:]).to(x_MB) - 1


def input_gradient(population: Population, x_MB: Tensor, y_MB: Tensor) -> Tensor:
    """The gradient of each image's loss in its input, (M, B, ...); under batch statistics, of the batch's losses."""
    with torch.enable_grad():
        x_MB = x_MB.detach().clone().requires_grad_()
        loss = each_loss(wide(population(x_MB)), y_MB).sum()
        (gradient_MB,) = torch.autograd.grad(loss, x_MB)
    return gradient_MB


@EVALUATIONS.register("fgsm")
def fgsm(pixels: Pixels, *, epsilons: Some[PositiveFloat], units: Units) -> list[Condition]:
    """The fast gradient sign method: x + epsilon * sign(dL/dx) (Goodfellow et al. 2015).

    Names of metrics have the epsilon, as ``test/accuracy_fgsm0.05`` has.

    Options:
        epsilons: the largest changes of an input.
        units: ``pixel``: of pixels between 0 and 1, within which attacked images stay; ``standardized``: of the numbers
            that the model gets, (pixel - mean) / std, without other bounds.

    Raises:
        ValueError: ``units=pixel``, and the inputs are no pixels between 0 and 1.
    """
    return [Condition(f"fgsm{each:g}", attack=_ascent(pixels, "fgsm", units, each, each, steps=1)) for each in epsilons]


@EVALUATIONS.register("pgd")
def pgd(
    pixels: Pixels,
    *,
    epsilons: Some[PositiveFloat],
    steps: Positive,
    rate: PositiveFloat,
    random_start: bool,
    units: Units,
) -> list[Condition]:
    """Projected gradient ascent: steps of rate * epsilon * sign(dL/dx) within epsilon (Madry et al. 2018).

    Names of metrics have the epsilon.

    Options:
        epsilons, units: see ``fgsm``.
        steps: how many.
        rate: the length of a step in epsilons.
        random_start: start at a random point within epsilon, as Madry et al. 2018; else at the image, as the basic
            iterative method of Kurakin et al. 2017. See ``Ascent``.

    Raises:
        ValueError: ``units=pixel``, and the inputs are no pixels between 0 and 1.
    """
    return [
        Condition(f"pgd{each:g}", attack=replace(ascent, random_start=random_start))
        for each in epsilons
        for ascent in [_ascent(pixels, "pgd", units, each, rate * each, steps=steps)]
    ]


def _ascent(pixels: Pixels, word: str, units: Units, epsilon: float, rate: float, *, steps: int) -> Ascent:
    x = pixels.data.train.x
    mean, std = (torch.tensor(each, dtype=torch.float64) for each in (pixels.data.mean, pixels.data.std))
    if units == "pixel":
        pixels.require(word)
        low, high = (0 - mean) / std, (1 - mean) / std
    else:
        std = torch.ones_like(std)
        low, high = -torch.inf * std, torch.inf * std
    return Ascent((epsilon / std).to(x), (rate / std).to(x), low.to(x), high.to(x), steps)
