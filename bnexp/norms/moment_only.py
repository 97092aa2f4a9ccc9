"""The halves of batch normalization: the mean alone, and the variance alone."""

from __future__ import annotations

import torch
from torch import Tensor

from bnexp.config.capabilities import Capabilities
from bnexp.config.checks import PositiveFloat
from bnexp.norms.base import NORMS, Norm, per_channel
from bnexp.norms.batch import BatchStatistics, Momentum, pooled_axes


class MeanOnlyBatchNorm(BatchStatistics):
    """y = x - mean_c + bias. ``running_var`` is not used and stays 1."""

    name = "mean_only_bn"
    used = ("mean",)

    def __init__(self, channels: int, *, momentum: float | None, affine: bool) -> None:
        super().__init__(channels, eps=0.0, momentum=momentum, affine=affine, gain=False)

    def by_batch(self, x: Tensor, *, track: bool) -> Tensor:
        """Subtract the mean of ``x``; with ``track``, the running one follows it."""
        mean = self.wide(x).mean(pooled_axes(x))
        if track:
            self.advance(mean, self.running_var)
        return self.by_moments(x, mean, self.running_var)

    def by_running(self, x: Tensor) -> Tensor:
        """Subtract the running mean."""
        return self.by_moments(x, self.running_mean, self.running_var)

    def standardized(self, wide: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        """Subtract the given mean."""
        return wide - per_channel(mean, wide)

    @torch.no_grad()
    def restore(self, x: Tensor) -> None:
        """Set bias = mean of the batch: y = x on this batch."""
        if self.bias is None:
            raise ValueError("affine=identity: needs a bias; use norm.affine=true")
        self.bias.copy_(x.mean(pooled_axes(x)))


class VarianceOnlyBatchNorm(BatchStatistics):
    """y = gain * x / sqrt(var_c + eps) + bias. ``running_mean`` is kept but not used."""

    name = "var_only_bn"
    used = ("var",)

    def by_batch(self, x: Tensor, *, track: bool) -> Tensor:
        """Divide by the standard deviation of ``x``; with ``track``, the running one follows it."""
        var, mean = torch.var_mean(self.wide(x), pooled_axes(x), correction=0)
        if track:
            self.advance(mean, self.unbiased_var(var, x))
        return self.by_moments(x, mean, var)

    def by_running(self, x: Tensor) -> Tensor:
        """Divide by the running standard deviation."""
        return self.by_moments(x, self.running_mean, self.running_var)

    def standardized(self, wide: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        """Divide by the root of the given variance."""
        return wide * per_channel((var + self.eps).rsqrt(), wide)

    @torch.no_grad()
    def restore(self, x: Tensor) -> None:
        """Set gain = sqrt(var + eps) and bias = 0: y = x on this batch."""
        super().restore(x)
        assert self.bias is not None
        self.bias.zero_()


@NORMS.register("mean_only_bn", Capabilities(batch_of_one=("refused", "differ"), restorable=True))
def mean_only_bn(channels: int, *, momentum: Momentum, affine: bool) -> Norm:
    """Mean-only batch norm, over B, H, W for each channel: y = x - mean + bias.

    Training subtracts the mean of the batch, evaluation the running one. There is no gain: in the paper the weights
    before the layer are normalized and have a gain. A 2-D input (B, C) has B values a channel.

    Salimans & Kingma 2016, section 4.

    Options:
        momentum: weight of the newest batch; null for the plain average over all batches.
        affine: whether there is a bias.

    Raises:
        ValueError: (in use) one value per channel in training, as a batch of 1 on (B, C) or on 1x1 maps gives.
    """
    return MeanOnlyBatchNorm(channels, momentum=momentum, affine=affine)


@NORMS.register("var_only_bn", Capabilities(batch_of_one=("refused", "differ"), restorable=True))
def var_only_bn(channels: int, *, eps: PositiveFloat, momentum: Momentum, affine: bool) -> Norm:
    """Variance-only batch norm, over B, H, W for each channel: y = gain * x / sqrt(var + eps) + bias.

    The variance is taken around the mean, but the mean is not subtracted. Training uses the biased variance of the
    batch, evaluation the running variance, which averages unbiased ones as in ``bn``. A 2-D input (B, C) has B values a
    channel.

    A control for mean-only batch norm: Ioffe & Szegedy 2015, algorithm 1, without its centring.

    Options:
        momentum: weight of the newest batch; null for the plain average over all batches.

    Raises:
        ValueError: (in use) one value per channel in training, as a batch of 1 on (B, C) or on 1x1 maps gives.
    """
    return VarianceOnlyBatchNorm(channels, eps=eps, momentum=momentum, affine=affine)
