r"""A norm, a model, a data set, a probe and an evaluation of one's own, without a change to bnexp.

From this folder::

    bnexp train --config-dir configs imports=[my_lab] norm=peak model=wide data=quadrants probes=[kurtosis] \
        evaluations=[turned] epochs=5

``imports`` names this file, whose decorators register what is in it; ``configs`` holds one yaml for each, in which the
numbers of the options stand. From then on they are words like all others: in sweeps, in comparisons, in claims.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor, nn

from bnexp.config.checks import Positive, PositiveFloat
from bnexp.data import DATA, Part, Raw
from bnexp.evaluations import EVALUATIONS, Condition, Pixels
from bnexp.models import MODELS, Units
from bnexp.norms import NORMS, Norm
from bnexp.probes import PROBES, Moment, Probe
from bnexp.probes.base import Values, signals


class Peak(Norm):
    """y = gain * x / (max_c |x| + eps) + bias for each sample, over C (and H, W)."""

    def __init__(self, channels: int, *, eps: float) -> None:
        super().__init__(channels, affine=True)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x, (B, C, ...)."""
        peak = x.abs().flatten(1).amax(1).view(-1, *[1] * (x.ndim - 1))
        shape = (-1, *[1] * (x.ndim - 2))
        return self.gain.view(shape) * x / (peak + self.eps) + self.bias.view(shape)


@NORMS.register("peak")
def peak(channels: int, *, eps: PositiveFloat) -> Norm:
    """Divides each sample by its largest value: y = gain * x / (max |x| + eps) + bias."""
    return Peak(channels, eps=eps)


@MODELS.register("wide")
def wide(shape: tuple[int, ...], classes: int, units: Units, *, width: Positive) -> nn.Module:
    """One wide hidden layer."""
    inputs = math.prod(shape)
    return nn.Sequential(nn.Flatten(), units.linear(inputs, width), nn.Linear(width, classes))


@DATA.register("quadrants")
def quadrants(*, images: Positive) -> Raw:
    """Gaussian points [2], labelled by whether their coordinates have the same sign; a fifth is the test set."""
    x = torch.randn(images, 2, generator=torch.Generator().manual_seed(0))
    y = (x[:, 0] * x[:, 1] > 0).long()
    test = images // 5
    return Raw(
        "data.name=quadrants",
        train=Part(x[test:], y[test:], "the training points", "their labels"),
        test=Part(x[:test], y[:test], "the test points", "their labels"),
        classes=2,
    )


class Kurtosis(Probe):
    """Fourth standardized moment of each layer's pre-activations on the probe batch: 3 for a Gaussian."""

    def measure(self, moment: Moment) -> Values:
        """``kurtosis/layer`` of every layer that an activation follows."""
        seen = signals(moment.model, moment.images).before
        return {f"kurtosis/{layer}": _kurtosis(x) for layer, x in seen.items()}


def _kurtosis(x: Tensor) -> float:
    centred = (x - x.mean()).double()
    return float((centred**4).mean() / (centred**2).mean() ** 2)


@PROBES.register("kurtosis")
def kurtosis(model: nn.Module, images: Tensor) -> Probe:
    """How Gaussian pre-activations are."""
    return Kurtosis()


def _turned(degrees: float, points: Tensor) -> Tensor:
    angle = math.radians(degrees)
    sin, cos = math.sin(angle), math.cos(angle)
    return points @ torch.tensor([[cos, sin], [-sin, cos]]).to(points)


@EVALUATIONS.register("turned")
def turned(pixels: Pixels, *, degrees: list[PositiveFloat]) -> list[Condition]:
    """Points turned around the origin; names of metrics have the angle, as ``test/accuracy_turned90`` has."""
    if pixels.data.shape != (2,):
        raise ValueError(f"evaluations=[turned]: turns points of a plane, and data={pixels.data.name} has others")
    return [Condition(f"turned{each:g}", partial(_turned, each)) for each in degrees]
