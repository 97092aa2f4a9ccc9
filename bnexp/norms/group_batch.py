"""Group and batch normalization at once: statistics over groups of channels and parts of the batch."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
from torch import Tensor

from bnexp.config.capabilities import Capabilities
from bnexp.config.checks import Positive, PositiveFloat, Range
from bnexp.norms.base import NORMS, Norm, require_spread, values_per_statistic
from bnexp.norms.batch import BatchStatistics, Momentum, pooled_axes
from bnexp.norms.ghost import cut
from bnexp.norms.group import fitting_groups


class GroupBatchNorm(BatchStatistics):
    """y = gain * (x - mean_kg) / sqrt(var_kg + eps) + bias for each chunk k of the batch and group g of channels.

    The running statistics are averages of E[x] and E[x^2] of each channel; ``running_var`` is their variance.
    Evaluation pools them over the channels of a group.

    Args:
        groups: a divisor of ``channels``.
        size: samples a chunk.
    """

    name = "gn_bn"
    averages_variances = False

    def __init__(
        self, channels: int, *, groups: int, size: int, eps: float, momentum: float | None, affine: bool
    ) -> None:
        super().__init__(channels, eps=eps, momentum=momentum, affine=affine)
        self.groups = groups
        self.size = size

    def require_values(self, x: Tensor) -> None:
        """Refuse a batch of one value a group."""
        values = values_per_statistic(x, *range(x.ndim)) // self.groups
        advice = "use a larger batch_size, or a smaller norm.groups"
        require_spread(x, values, norm=self.name, per="group", advice=advice)

    def by_batch(self, x: Tensor, *, track: bool) -> Tensor:
        """Normalize by the statistics of each chunk and group; with ``track``, the running ones follow the batch's."""
        wide, (whole, _) = self.wide(x), cut(len(x), self.size)
        end = whole * self.size
        parts = [(part, count) for part, count in ((wide[:end], whole), (wide[end:], 1)) if len(part)]
        if track:
            var, mean = torch.var_mean(wide, pooled_axes(x), correction=0)
            self.advance(mean, var + self._kept() * (mean - self.running_mean).square())
        return self.scaled(torch.cat([self._in_chunks(part, count) for part, count in parts])).to(x.dtype)

    def _kept(self) -> Tensor | float:
        """The weight of the old running statistics beside those of a new batch."""
        if self.momentum is None:
            return 1 - (self.batches_seen + 1).to(self.running_mean.dtype).reciprocal()
        return 1 - self.momentum

    def _in_chunks(self, x: Tensor, count: int) -> Tensor:
        values = x.reshape(count, len(x) // count, self.groups, -1)
        var, mean = torch.var_mean(values, (1, 3), correction=0, keepdim=True)
        return ((values - mean) * (var + self.eps).rsqrt()).view(x.shape)

    def by_running(self, x: Tensor) -> Tensor:
        """Normalize by the running statistics of the channels of each group together."""
        return self.by_moments(x, self.running_mean, self.running_var)

    def standardized(self, wide: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        """Normalize by the given statistics of channels, [C] or [B, C], pooled over each group."""
        groups = *mean.shape[:-1], self.groups, -1
        spread, middle = torch.var_mean(mean.reshape(groups), -1, correction=0, keepdim=True)
        pooled = middle, var.reshape(groups).mean(-1, keepdim=True) + spread
        width = self.channels // self.groups
        return super().standardized(wide, *(each.repeat_interleave(width, -1).flatten(-2) for each in pooled))


@NORMS.register("gn_bn", Capabilities(batch_of_one=("differ", "differ"), fused=False))
def gn_bn(
    channels: int,
    *,
    groups: Positive,
    uneven: Literal["largest_divisor", "refuse"],
    size: Annotated[int, Range(least=2)],
    eps: PositiveFloat,
    momentum: Momentum,
    affine: bool,
) -> Norm:
    """Group and batch norm, over g samples, C/G channels and H, W: y = gain * (x - mean) / sqrt(var + eps) + bias.

    Training cuts the batch into chunks of g samples as ``ghost_bn`` does, and each chunk into G groups of channels as
    ``gn`` does. Evaluation uses running averages of E[x] and E[x^2] over batches, pooled over each group. C groups are
    ghost batch norm; a 2-D input (B, C) has g*C/G values a group.

    Summers & Dinneen 2020 (for very small batches), and the authors' code.

    Options:
        groups: G.
        uneven: what to do where G does not divide C, as in ``gn``.
        size: g.
        momentum: weight of the newest batch, as in ``bn``; null for the plain average over all batches.

    Raises:
        ValueError: G does not divide C under ``refuse``; (in use) one value a group in training, as a batch of 1 may
            give.
    """
    fitting = fitting_groups(channels, asked=groups, uneven=uneven)
    return GroupBatchNorm(channels, groups=fitting, size=size, eps=eps, momentum=momentum, affine=affine)
