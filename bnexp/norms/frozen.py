"""Frozen batch normalization: fixed statistics, in training too."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from bnexp.config.capabilities import Capabilities
from bnexp.config.checks import PositiveFloat
from bnexp.norms.base import NORMS, Norm, require_spread, values_per_statistic
from bnexp.norms.batch import pooled_axes


class FrozenBatchNorm(Norm):
    """y = gain * (x - running_mean_c) / sqrt(running_var_c + eps) + bias: a straight line for each channel.

    Training and evaluation are the same, and no gradient flows through the statistics. The buffers have the same names
    as the buffers of ``bn``, so that trained statistics of ``bn`` can be loaded.

    Args:
        from_first_batch: whether the first batch gives the statistics where none are loaded.

    Attributes:
        running_mean: [C], 0 at first.
        running_var: [C], 1 at first.
        batches_seen: how many batches gave the statistics, an int64 scalar.
    """

    running_mean: Tensor
    running_var: Tensor
    batches_seen: Tensor

    def __init__(self, channels: int, *, eps: float, from_first_batch: bool, affine: bool) -> None:
        super().__init__(channels, affine=affine)
        self.eps = eps
        self.from_first_batch = from_first_batch
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.register_buffer("batches_seen", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def adjust(self, x: Tensor) -> None:
        """Take the mean and the biased variance of the first batch.

        Raises:
            ValueError: a channel has a single value.
        """
        if not self.from_first_batch:
            return
        values = values_per_statistic(x, *pooled_axes(x))
        require_spread(x, values, norm="frozen_bn", per="channel", advice="use a larger batch_size")
        var, mean = torch.var_mean(x.to(self.running_mean.dtype), pooled_axes(x), correction=0)
        self.running_mean.copy_(mean)
        self.running_var.copy_(var)
        self.batches_seen.fill_(1)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x, (B, C, ...)."""
        mean, var = self.running_mean, self.running_var
        return F.batch_norm(x, mean, var, self.gain, self.bias, training=False, eps=self.eps)


@NORMS.register("frozen_bn", Capabilities(as_bn=True))
def frozen_bn(channels: int, *, statistics: Literal["first_batch", "given"], eps: PositiveFloat, affine: bool) -> Norm:
    """Frozen batch norm, fixed statistics for each channel: y = gain * (x - mean) / sqrt(var + eps) + bias.

    Training and evaluation are the same: the layer is linear in x, and neither batches nor gradients change mean and
    variance. gain and bias learn. The layer answers the first batch as ``bn`` does, and keeps the statistics of this
    batch. A 2-D input (B, C) has B values a channel.

    Ioffe & Szegedy 2015, algorithm 2, line 11, here used in training, too; He et al. 2016, appendix A, for detection.

    Options:
        statistics: ``first_batch`` takes mean and biased variance over B, H, W of the run's first training batch; a
            constant channel is divided by sqrt(eps). ``given`` takes the statistics that were loaded; a run from
            scratch has mean 0 and variance 1.

    Raises:
        ValueError: (before training) the first batch has one value per channel, under ``first_batch``.
    """
    return FrozenBatchNorm(channels, eps=eps, from_first_batch=statistics == "first_batch", affine=affine)
