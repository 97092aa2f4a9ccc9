"""Cosine normalization: the angle between weights and inputs instead of their dot product."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bnexp.config.checks import PositiveFloat
from bnexp.norms.base import NORMS, Norm, Scaled
from bnexp.norms.weights import UnitFilters, normalize_filters, require_several_weights

Scale = Literal["sqrt_fan_in", "one"]
Convolution = nn.Conv1d | nn.Conv2d
Linear = nn.Linear | Convolution


class Cosine(Scaled):
    """y = gain * x + bias behind a linear map that answers scale * cos(w, its input).

    Args:
        scale: ``sqrt_fan_in`` or ``one``.
        eps: the least squared length of a filter and of an input.
        centered: whether weights and inputs lose their means, which makes the cosine Pearson's correlation.
    """

    def __init__(self, channels: int, *, scale: Scale, eps: float, centered: bool, affine: bool) -> None:
        super().__init__(channels, affine=affine)
        self.scale = scale
        self.eps = eps
        self.centered = centered

    def attach(self, linear: nn.Module) -> None:
        """Have the map compute with filters of unit length, and divide its output by the length of its input."""
        assert isinstance(linear, Linear)
        if self.centered:
            require_several_weights(linear, norm="centered_cosine")
        factor = linear.weight[0].numel() ** 0.5 if self.scale == "sqrt_fan_in" else 1.0
        normalize_filters(linear, UnitFilters(eps=self.eps, scale=factor, centered=self.centered))
        linear.register_forward_hook(self._divide)

    def _divide(self, linear: nn.Module, inputs: tuple[Tensor, ...], y: Tensor) -> Tensor:
        assert isinstance(linear, Linear)
        x = inputs[0].float() if inputs[0].dtype in (torch.float16, torch.bfloat16) else inputs[0]
        square = squared_spread(linear, x) if self.centered else squared_length(linear, x)
        length = square.clamp_min(self.eps).sqrt()
        cosine = _by_group(y, length.shape[1]) / length.unsqueeze(2)
        return cosine.flatten(1, 2).to(y.dtype)


def squared_length(linear: Linear, x: Tensor) -> Tensor:
    """The sum of x^2 over the receptive field of each output position, zero padding included.

    Returns:
        (B, G, ...), one number a group of channels that a convolution keeps apart.
    """
    return _sums(linear, _by_group(x, _groups(linear)).square().sum(2))


def squared_spread(linear: Linear, x: Tensor) -> Tensor:
    """The sum of (x - mean)^2 over the receptive field of each output position, zero padding included.

    Adds the spread within each position and the spread of the positions' means (Chan et al. 1979, eq. 2.1): in the
    difference of sum x^2 and n mean^2, digits would cancel.

    Returns:
        (B, G, ...), one number a group of channels that a convolution keeps apart.
    """
    x = _by_group(x, _groups(linear))
    mean = x.mean(2, keepdim=True)
    within = _sums(linear, (x - mean).square().sum(2))
    return within if isinstance(linear, nn.Linear) else within + x.shape[2] * _spread_of_fields(linear, mean.squeeze(2))


def _groups(linear: Linear) -> int:
    """G, how many groups of channels the map keeps apart."""
    return 1 if isinstance(linear, nn.Linear) else linear.groups


def _by_group(x: Tensor, groups: int) -> Tensor:
    """(B, C, ...) -> (B, G, C/G, ...)."""
    return x.reshape(*x.shape[:1], groups, -1, *x.shape[2:])


def _sums(linear: Linear, x: Tensor) -> Tensor:
    """The sum of x, (B, G, ...), over the field of each output position."""
    if isinstance(linear, nn.Linear):
        return x
    pool = F.avg_pool1d if isinstance(linear, nn.Conv1d) else F.avg_pool2d
    return pool(_padded(linear, x), linear.kernel_size, linear.stride) * math.prod(linear.kernel_size)


def _spread_of_fields(conv: Convolution, x: Tensor) -> Tensor:
    """The sum of (x - mean)^2 of x, (B, G, ...), over the field of each output position."""
    x = _padded(conv, x)
    for axis, (size, step) in enumerate(zip(conv.kernel_size, conv.stride, strict=True), 2):
        x = x.unfold(axis, size, step)
    fields = x.flatten(-len(conv.kernel_size))
    return (fields - fields.mean(-1, keepdim=True)).square().sum(-1)


def _padded(conv: Convolution, x: Tensor) -> Tensor:
    assert isinstance(conv.padding, tuple)
    assert set(conv.dilation) == {1}
    return F.pad(x, [side for padding in reversed(conv.padding) for side in (padding, padding)])


@NORMS.register("cosine")
def cosine(channels: int, *, scale: Scale, eps: PositiveFloat, affine: bool) -> Norm:
    """Cosine normalization, over the inputs of each output unit: y = gain * scale * <w, x> / (||w|| ||x||) + bias.

    For maps x is the receptive field of an output position, zero padding included. Training and evaluation are the
    same.

    Luo et al. 2017, cosine similarity.

    Options:
        scale: ``sqrt_fan_in`` makes random weights give outputs of sd 1, as a cosine in n dimensions has sd
            1 / sqrt(n); ``one`` leaves the cosine, which is within -1 and 1.
        eps: the least ||w||^2 and ||x||^2, for blank fields.
    """
    return Cosine(channels, scale=scale, eps=eps, centered=False, affine=affine)


@NORMS.register("centered_cosine")
def centered_cosine(channels: int, *, scale: Scale, eps: PositiveFloat, affine: bool) -> Norm:
    """Centered cosine, over the inputs of each output unit: y = gain * scale * corr(w, x) + bias (Pearson correlation).

    corr(w, x) = <w - mean(w), x - mean(x)> / (||w - mean(w)|| ||x - mean(x)||). For maps x is the receptive field of an
    output position, zero padding included. Training and evaluation are the same.

    Luo et al. 2017, centered cosine similarity.

    Options:
        scale: as for ``cosine``.
        eps: the least squared lengths, for constant filters and fields.

    Raises:
        ValueError: a unit has a single input.
    """
    return Cosine(channels, scale=scale, eps=eps, centered=True, affine=affine)
