"""Switchable normalization: a learnt mixture of the statistics of instance, layer and batch norm."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bnexp.config.capabilities import Capabilities
from bnexp.config.checks import PositiveFloat
from bnexp.norms.base import NORMS, Norm, require_spread, values_per_statistic
from bnexp.norms.batch import BatchStatistics, Momentum


class SwitchableNorm(BatchStatistics):
    """y = gain * (x - sum_k w_k mean_k) / sqrt(sum_k w'_k var_k + eps) + bias, k over instance, layer and batch norm.

    All variances are biased. The variances of layer and batch norm follow from the means and variances of each sample n
    and channel c: var = mean(var_nc) + var(mean_nc). Where a channel of a sample has a single value, as in vectors and
    1x1 maps, there is no instance norm, and its weights are left out.

    Attributes:
        mean_logits, var_logits: [3], w = softmax(mean_logits), w' = softmax(var_logits), 0 at first.
    """

    name = "switchable"

    def __init__(self, channels: int, *, eps: float, momentum: float | None, affine: bool) -> None:
        super().__init__(channels, eps=eps, momentum=momentum, affine=affine)
        self.mean_logits = nn.Parameter(torch.zeros(3))
        self.var_logits = nn.Parameter(torch.zeros(3))

    def by_batch(self, x: Tensor, *, track: bool) -> Tensor:
        """Normalize with the batch's part from ``x``; with ``track``, the running statistics follow it."""
        var_BC, mean_BC = _moments(self.wide(x))
        var_C, mean_C = _pooled(var_BC, mean_BC, 0)
        if track:
            self.advance(mean_C[0], self.unbiased_var(var_C[0], x))
        return self._mixed(x, (var_BC, mean_BC), (var_C, mean_C))

    def by_running(self, x: Tensor) -> Tensor:
        """Normalize with the batch's part from the running statistics."""
        return self.by_moments(x, self.running_mean[None], self.running_var[None])

    def by_moments(self, x: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        """Normalize with the batch's part from the given statistics, [1, C] or [B, C]."""
        return self._mixed(x, _moments(self.wide(x)), (var, mean))

    def _mixed(self, x: Tensor, instance: tuple[Tensor, Tensor], batch: tuple[Tensor, Tensor]) -> Tensor:
        values = values_per_statistic(x, *range(1, x.ndim))
        require_spread(x, values, norm=self.name, per="sample", advice="use more channels or norm=bn")
        kinds = [instance, _pooled(*instance, 1), batch]
        if values == self.channels:
            del kinds[0]
        variances, means = zip(*kinds, strict=True)
        var_BC, mean_BC = _weighted(self.var_logits, variances), _weighted(self.mean_logits, means)
        shape = *mean_BC.shape, *[1] * (x.ndim - 2)
        x_hat = (self.wide(x) - mean_BC.view(shape)) * (var_BC + self.eps).rsqrt().view(shape)
        return self.scaled(x_hat).to(x.dtype)


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Variance and mean of each sample and channel over positions, [B, C]."""
    return torch.var_mean(x.reshape(*x.shape[:2], -1), -1, correction=0)


def _pooled(var_BC: Tensor, mean_BC: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    """Variance and mean of the union along an axis, which is kept."""
    spread, mean = torch.var_mean(mean_BC, axis, correction=0, keepdim=True)
    return var_BC.mean(axis, keepdim=True) + spread, mean


def _weighted(logits: Tensor, statistics: tuple[Tensor, ...]) -> Tensor:
    """The mean of [B, C], [B, 1] and [1, C] with softmax weights; without [B, C] the last two logits are used."""
    weights = logits[-len(statistics) :].softmax(0)
    terms = [weight * each for weight, each in zip(weights, statistics, strict=True)]
    mean: Tensor = sum(terms[1:], terms[0])
    return mean


@NORMS.register("switchable", Capabilities(batch_of_one=("refused", "differ")))
def switchable(channels: int, *, eps: PositiveFloat, momentum: Momentum, affine: bool) -> Norm:
    """Switchable normalization, over the axes of in, ln and bn at once: y = gain * (x - mean) / sqrt(var + eps) + bias.

    mean = sum w_k mean_k and var = sum w'_k var_k, k over instance, layer and batch norm, with w and w' the softmax of
    three learnt numbers each. Training takes the statistics of batch norm from the batch, evaluation from the running
    ones, which average the unbiased variance as in ``bn`` (the paper averages over a pass through the training set).
    For a 2-D input (B, C), and for 1x1 maps, the mixture is of layer and batch norm alone.

    Luo et al. 2019, eq. 2 to 5.

    Options:
        momentum: weight of the newest batch in the running averages, torch's convention; null for the plain average.

    Raises:
        ValueError: (in use) one value per channel in training, or one value per sample.
    """
    return SwitchableNorm(channels, eps=eps, momentum=momentum, affine=affine)
