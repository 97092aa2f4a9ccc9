"""Initial weights. A layer's draw depends on the seed, its name and its shape only.

So two arms with equal seeds start from identical weights in every layer that they share, whatever else they differ in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from bnexp.checks import NonNegative, PositiveFloat
from bnexp.registry import Registry
from bnexp.seeds import generator

INITS = Registry("init")
Linear = nn.Linear | nn.Conv1d | nn.Conv2d
Init = Callable[[Linear, torch.Generator], None]
Distribution = Literal["uniform", "normal"]


def initialize(model: nn.Module, init: Init, seed: int) -> None:
    """Draw the weights of every Linear and Conv layer anew; norms keep gain 1 and bias 0."""
    with torch.no_grad():
        for name, layer in model.named_modules():
            if isinstance(layer, Linear):
                init(layer, generator(seed, "init", name))


def fan_in(weight: Tensor) -> int:
    """Inputs of one output unit: in_features, or channels of a group times the kernel's area."""
    return weight[0].numel()


def _scaled(fill: Callable[[Tensor, torch.Generator], object], gain: float) -> Init:
    """Weights from ``fill`` times ``gain``, biases 0."""

    def init(layer: Linear, source: torch.Generator) -> None:
        fill(layer.weight, source)
        layer.weight.mul_(gain)
        if layer.bias is not None:
            layer.bias.zero_()

    return init


@INITS.register("torch")
def torch_default(*, gain: PositiveFloat) -> Init:
    """PyTorch's default: weights and biases U(-1/sqrt(fan_in), 1/sqrt(fan_in)), std 1/sqrt(3 fan_in)."""

    def init(layer: Linear, source: torch.Generator) -> None:
        bound = fan_in(layer.weight) ** -0.5
        layer.weight.uniform_(-bound, bound, generator=source).mul_(gain)
        if layer.bias is not None:
            layer.bias.uniform_(-bound, bound, generator=source)

    return init


@INITS.register("xavier")
def xavier(*, distribution: Distribution, gain: PositiveFloat) -> Init:
    """Variance 2 / (fan_in + fan_out) (Glorot & Bengio 2010, eqs. 12 and 16)."""
    fill = nn.init.xavier_uniform_ if distribution == "uniform" else nn.init.xavier_normal_
    return _scaled(lambda weight, source: fill(weight, generator=source), gain)


@INITS.register("kaiming")
def kaiming(*, distribution: Distribution, mode: Literal["fan_in", "fan_out"], gain: PositiveFloat) -> Init:
    """Variance 2 / fan_in, or 2 / fan_out (He et al. 2015, eqs. 10 and 14)."""
    fill = nn.init.kaiming_uniform_ if distribution == "uniform" else nn.init.kaiming_normal_
    return _scaled(lambda weight, source: fill(weight, mode=mode, nonlinearity="relu", generator=source), gain)


@INITS.register("lecun")
def lecun(*, gain: PositiveFloat) -> Init:
    """N(0, 1 / fan_in) (LeCun et al. 1998, Efficient BackProp, eq. 16)."""
    return _scaled(lambda weight, source: weight.normal_(0, fan_in(weight) ** -0.5, generator=source), gain)


@INITS.register("normal")
def normal(*, std: NonNegative, gain: PositiveFloat) -> Init:
    """N(0, std^2), the same for every layer."""
    return _scaled(lambda weight, source: weight.normal_(0, std, generator=source), gain)


@INITS.register("orthogonal")
def orthogonal(*, gain: PositiveFloat) -> Init:
    """Rows (or columns) orthonormal (Saxe et al. 2014, sec. 3); a kernel is flattened to out x rest."""
    return _scaled(lambda weight, source: nn.init.orthogonal_(weight, generator=source), gain)


@INITS.register("zero")
def zero() -> Init:
    """All zeros: every unit of a layer is alike and stays so."""
    return _scaled(lambda weight, source: weight.zero_(), 1.0)
