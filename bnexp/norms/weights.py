"""Norms of weights: the linear map computes with normalized filters, and no sample's answer depends on another.

A filter is the weights of one output unit, over all inputs and kernel positions. What is drawn and learnt is the raw
filter; the norm behind the map holds the gain. Where the map takes the norm's bias, it computes with gain * filter, so
that nothing is left to do behind it.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from bnexp.config.capabilities import Capabilities
from bnexp.config.checks import Positive, PositiveFloat
from bnexp.norms.base import NORMS, Branch, Norm, Scaled, per_channel
from bnexp.norms.batch import Momentum, pooled_axes
from bnexp.norms.group import GroupNorm, fitting_groups
from bnexp.norms.moment_only import MeanOnlyBatchNorm

Start = Literal["data", "unit"]


class UnitFilters(nn.Module):
    """w -> scale * w / ||w|| for each filter; with ``centered``, w is replaced by w - mean(w) first.

    ||w||^2 counts as at least ``eps``, so that a zero filter stays zero and its gradient finite.
    """

    def __init__(self, *, eps: float, scale: float = 1.0, centered: bool = False) -> None:
        super().__init__()
        self.eps = eps
        self.scale = scale
        self.centered = centered

    def forward(self, weight: Tensor) -> Tensor:
        """(C_out, ...) -> the same shape."""
        axes = tuple(range(1, weight.ndim))
        if self.centered:
            weight = weight - weight.mean(axes, keepdim=True)
        length = weight.square().sum(axes, keepdim=True).clamp_min(self.eps).sqrt()
        return weight * (self.scale / length)


class StandardFilters(nn.Module):
    """w -> (w - mean(w)) / (std(w) + eps) for each filter, with the unbiased std, and eps outside the root."""

    def __init__(self, *, eps: float) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, weight: Tensor) -> Tensor:
        """(C_out, ...) -> the same shape."""
        std, mean = torch.std_mean(weight, tuple(range(1, weight.ndim)), keepdim=True)
        return (weight - mean) / (std + self.eps)


def normalize_filters(linear: nn.Module, rule: nn.Module) -> None:
    """Have a linear map compute with ``rule(weight)``; the raw weight is still what is drawn and learnt."""
    parametrize.register_parametrization(linear, "weight", rule)


def require_several_weights(linear: nn.Module, *, norm: str) -> None:
    """Refuse filters of one weight: subtracting the mean would leave 0.

    Raises:
        ValueError: the map has a single input.
    """
    assert isinstance(linear.weight, Tensor)
    if linear.weight[0].numel() < 2:
        raise ValueError(f"norm={norm}: a filter of a single weight has no spread; use more inputs or weight_norm")


class GainedFilters(nn.Module):
    """w -> gain * w for each filter, with the gain of a norm."""

    norm: Scaled

    def __init__(self, norm: Scaled) -> None:
        super().__init__()
        vars(self)["norm"] = norm  # no child: the gain stays the norm's

    def forward(self, weight: Tensor) -> Tensor:
        """(C_out, ...) -> the same shape."""
        assert self.norm.gain is not None
        return self.norm.gain.view(-1, *[1] * (weight.ndim - 1)) * weight


class FilterNorm(Scaled):
    """y = gain * x + bias behind a linear map with normalized filters, or by that map itself."""

    def give_bias(self, linear: nn.Module) -> None:
        """Have the linear map add the bias, and compute with gain * filter: gain * (x + bias) were another function."""
        super().give_bias(linear)
        if self.gain is not None:
            normalize_filters(linear, GainedFilters(self))

    def forward(self, x: Tensor) -> Tensor:
        """Scale and shift x, (B, C, ...), unless the linear map has done it."""
        return self.scaled(x) if self.carrier is None else x


class NormalizedWeights(FilterNorm):
    """y = gain * x + bias behind a linear map whose filters go through ``rule``.

    Args:
        name: the norm's name in configs, for messages.
        rule: makes the layer that turns raw filters into normalized ones.
    """

    def __init__(self, channels: int, *, name: str, rule: Callable[[], nn.Module], affine: bool) -> None:
        super().__init__(channels, affine=affine)
        self.name = name
        self.rule = rule

    def attach(self, linear: nn.Module) -> None:
        """Normalize the map's filters, which need at least two weights each."""
        require_several_weights(linear, norm=self.name)
        normalize_filters(linear, self.rule())


class BranchWeights(NormalizedWeights):
    """The same at the end of a residual branch, times one learnt number, [1].

    Args:
        alpha: where this number starts.
    """

    def __init__(self, *given: Any, alpha: float, **options: Any) -> None:
        super().__init__(*given, **options)
        self.alpha = nn.Parameter(torch.full((1,), alpha))

    def forward(self, x: Tensor) -> Tensor:
        """Scale and shift x, (B, C, ...), and scale all of it."""
        return per_channel(self.alpha, x) * super().forward(x)


class WeightNorm(FilterNorm):
    """y = gain * x + bias behind a linear map that computes with v / ||v||.

    Args:
        eps: the least ||v||^2.
        init: where gain and bias start, see ``weight_norm``.
    """

    def __init__(self, channels: int, *, eps: float, init: Start, affine: bool) -> None:
        super().__init__(channels, affine=affine)
        self.eps = eps
        self.init = init

    def attach(self, linear: nn.Module) -> None:
        """Have the map compute with v / ||v||."""
        normalize_filters(linear, UnitFilters(eps=self.eps))

    @torch.no_grad()
    def adjust(self, x: Tensor) -> Tensor | None:
        """Set gain = 1 / std(t) and bias = -mean(t) / std(t), t = <v, x> / ||v||, for each channel.

        Then y has mean 0 and variance 1. Before, the gain is 1.
        """
        if self.init == "unit" or self.given:
            return None
        assert self.gain is not None
        assert self.shift is not None
        t = x if self.carrier is None else x - per_channel(self.shift, x)
        std, mean = channel_moments(self, t)
        self.gain.copy_(1 / std)
        self.shift.copy_(-mean / std)
        return t if self.carrier is None else per_channel(self.gain, t) * t + per_channel(self.shift, t)


class WeightNormMeanOnly(MeanOnlyBatchNorm):
    """y = gain * (x - mean_c) + bias behind a linear map that computes with v / ||v||.

    Args:
        least: the least ||v||^2.
        init: where gain starts, see ``weight_norm_mbn``.
    """

    name = "weight_norm_mbn"

    def __init__(self, channels: int, *, least: float, momentum: float | None, init: Start, affine: bool) -> None:
        super().__init__(channels, momentum=momentum, affine=affine)
        if affine:
            self.gain = nn.Parameter(torch.ones(channels))
        self.least = least
        self.init = init

    def attach(self, linear: nn.Module) -> None:
        """Have the map compute with v / ||v||."""
        normalize_filters(linear, UnitFilters(eps=self.least))

    @torch.no_grad()
    def adjust(self, x: Tensor) -> None:
        """Set gain = 1 / std(x) for each channel: y has mean 0 and variance 1."""
        if self.init == "data" and not self.given:
            assert self.gain is not None
            std, _ = channel_moments(self, x)
            self.gain.copy_(1 / std)

    @torch.no_grad()
    def restore(self, x: Tensor) -> None:
        """Set gain = 1 and bias = mean of the batch: y = x on this batch."""
        super().restore(x)
        assert self.gain is not None
        self.gain.fill_(1)


def channel_moments(norm: Norm, x: Tensor) -> tuple[Tensor, Tensor]:
    """Standard deviation (biased) and mean of each channel of a norm's first batch, [C] each.

    Raises:
        ValueError: a channel does not vary, so that 1 / std is not defined; the net is recurrent.
    """
    if norm.recurrent:
        raise ValueError(
            "norm.init=data: sets gain and bias by a layer's first input, and a recurrent one has an input a time step;"
            " use norm.init=unit"
        )
    std, mean = torch.std_mean(x, pooled_axes(x), correction=0)
    if not bool((std > 0).all()):  # waits for the device, before training
        raise ValueError(
            "norm.init=data: a channel has one value throughout the first batch, and its gain 1 / std is not defined; "
            "use norm.init=unit, a larger batch_size, or an init that draws at random"
        )
    return std, mean


def _require_affine(init: str, affine: bool) -> None:
    if init == "data" and not affine:
        raise ValueError("norm.affine=false: init=data sets the gain and the bias; use norm.init=unit")


@NORMS.register("weight_norm", Capabilities(bias_in_linear=True))
def weight_norm(channels: int, *, eps: PositiveFloat, init: Start, affine: bool) -> Norm:
    """Weight normalization, over the weights of each output unit: y = gain * <v, x> / ||v|| + bias.

    v is drawn and learnt; gain is the paper's g. A filter v covers all inputs of a unit and the whole kernel. Training
    and evaluation are the same, for vectors and maps alike.

    Salimans & Kingma 2016, eq. 2; section 3 for the first values of gain and bias.

    Options:
        eps: the least ||v||^2, which keeps a zero v finite; the paper has none.
        init: ``data`` starts with gain = 1 / std and bias = -mean / std of <v, x> / ||v|| on the run's first batch
            (biased std), unless affine=constant gives them; ``unit`` starts with gain 1 and bias 0.

    Raises:
        ValueError: init=data without affine; (when the first batch is there) a channel does not vary over it.
    """
    _require_affine(init, affine)
    return WeightNorm(channels, eps=eps, init=init, affine=affine)


@NORMS.register("weight_norm_mbn", Capabilities(batch_of_one=("refused", "differ"), restorable=True))
def weight_norm_mbn(
    channels: int,
    *,
    eps: PositiveFloat,
    momentum: Momentum,
    init: Start,
    affine: bool,
) -> Norm:
    """Weight norm with mean-only batch norm over B, H, W: y = gain * (t - mean(t)) + bias with t = <v, x> / ||v||.

    Training subtracts the batch's mean for each channel, evaluation the running one. A 2-D input (B, C) has B values a
    channel.

    Salimans & Kingma 2016, sec. 4.

    Options:
        eps: the least ||v||^2, which keeps a zero v finite; the paper has none.
        momentum: weight of the newest batch; null for the plain average over all batches.
        init: ``data`` starts with gain = 1 / std of t on the run's first batch (biased std), unless affine=constant
            gives it; ``unit`` starts with gain 1.

    Raises:
        ValueError: init=data without affine; (when the first batch is there) a channel does not vary over it; (in use)
            one value per channel in training, so that y would be the bias.
    """
    _require_affine(init, affine)
    return WeightNormMeanOnly(channels, least=eps, momentum=momentum, init=init, affine=affine)


@NORMS.register("weight_standardization", Capabilities(bias_in_linear=True))
def weight_standardization(channels: int, *, eps: PositiveFloat, affine: bool) -> Norm:
    """Weight standardization, over the weights of each output unit: y = gain * <(w - mean) / (std + eps), x> + bias.

    The std is the unbiased one, and eps is added outside the root, as in the authors' code. Training and evaluation are
    the same, for vectors and maps alike. Outputs are sqrt(fan_in) times as large as inputs, for which reason the paper
    always puts a norm behind (``ws_gn``); ``scaled_ws`` divides by sqrt(fan_in).

    Qiao et al. 2019, sec. 3.

    Options:
        eps: added to the std.

    Raises:
        ValueError: a filter has a single weight.
    """
    rule = partial(StandardFilters, eps=eps)
    return NormalizedWeights(channels, name="weight_standardization", rule=rule, affine=affine)


@NORMS.register("scaled_ws", Capabilities(bias_in_linear=True))
def scaled_ws(
    channels: int,
    *,
    scale: PositiveFloat,
    eps: PositiveFloat,
    alpha: float | None,
    affine: bool,
    branch: Branch | None = None,
) -> Norm:
    """Scaled weight standardization, by output unit: y = gain * scale * <(w - mean) / (sqrt(fan_in) sd), x> + bias.

    The sd is the biased one. Training and evaluation are the same, for vectors and maps alike.

    Brock, De & Smith 2021, eq. 2, and their code (eps); their networks have SkipInit, too (De & Smith 2020).

    Options:
        scale: the paper's gamma, which restores the variance that the activation takes away: sqrt(2 / (1 - 1 / pi)) for
            relu, 1 for identity.
        eps: the least fan_in * sd^2.
        alpha: where a learnt number starts that scales the end of each residual branch; null: there is none.

    Raises:
        ValueError: a filter has a single weight.
    """
    # sqrt(fan_in) * sd is the length of w - mean.
    rule = partial(UnitFilters, eps=eps, scale=scale, centered=True)
    if alpha is not None and branch is not None and branch.last:
        return BranchWeights(channels, name="scaled_ws", rule=rule, affine=affine, alpha=alpha)
    return NormalizedWeights(channels, name="scaled_ws", rule=rule, affine=affine)


class StandardizedGroupNorm(GroupNorm):
    """Group norm behind a linear map with standardized filters.

    Args:
        weight_eps: added to the filters' std.
    """

    name = "ws_gn"

    def __init__(self, channels: int, *, groups: int, eps: float, weight_eps: float, affine: bool) -> None:
        super().__init__(channels, groups=groups, eps=eps, affine=affine)
        self.weight_eps = weight_eps

    def attach(self, linear: nn.Module) -> None:
        """Standardize the map's filters."""
        require_several_weights(linear, norm=self.name)
        normalize_filters(linear, StandardFilters(eps=self.weight_eps))


@NORMS.register("ws_gn")
def ws_gn(
    channels: int,
    *,
    groups: Positive,
    uneven: Literal["largest_divisor", "refuse"],
    eps: PositiveFloat,
    weight_eps: PositiveFloat,
    affine: bool,
) -> Norm:
    """Weight standardization and group norm over C/G, H, W: y = gain * x_hat + bias, x = <(w - mean) / (std + eps), .>.

    x_hat = (x - mean) / sqrt(var + eps) for each sample and group, as ``gn``; filters as ``weight_standardization``.
    Training and evaluation are the same. A 2-D input (B, C) has C/G values a group.

    Qiao et al. 2019, sec. 3; Wu & He 2018, eq. 7.

    Options:
        groups, uneven, eps: as for ``gn``.
        weight_eps: added to the filters' std.

    Raises:
        ValueError: G does not divide C under ``refuse``; a filter has a single weight; (in use) one value per group.
    """
    fitting = fitting_groups(channels, asked=groups, uneven=uneven)
    return StandardizedGroupNorm(channels, groups=fitting, eps=eps, weight_eps=weight_eps, affine=affine)
