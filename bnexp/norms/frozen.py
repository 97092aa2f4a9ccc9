"""Frozen batch normalization: fixed statistics, in training too."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from bnexp.checks import PositiveFloat
from bnexp.norms.base import NORMS, Norm, require_spread, values_per_statistic
from bnexp.norms.batch import pooled_axes


class FrozenBatchNorm(Norm):
    """y = gain * (x - running_mean_c) / sqrt(running_var_c + eps) + bias: a straight line for each channel.

    Training and evaluation are the same, and no gradient flows through the statistics. The buffers have the names of
    those of ``bn``, so that its trained statistics can be loaded.

    Args:
        from_first_batch: whether the first batch in training, if no statistics were loaded, gives them.

    Attributes:
        running_mean: [C], 0 at first.
        running_var: [C], 1 at first.
        batches_seen: 0 as long as the statistics are (0, 1); under ``from_first_batch`` it counts, an int64 scalar.
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

    def fit(self, x: Tensor) -> None:
        """Take the first batch's statistics before the training: what looks at its first step is to find them."""
        if self.from_first_batch:
            self._take_first(x)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x, (B, C, ...).

        Raises:
            ValueError: in training from the first batch, a channel has a single value.
        """
        if self.training and self.from_first_batch:
            self._take_first(x)
        # The backward pass reads the statistics: it gets copies, as a later forward pass writes into the buffers.
        mean, var = self.running_mean.clone(), self.running_var.clone()
        return F.batch_norm(x, mean, var, self.gain, self.bias, training=False, eps=self.eps)

    @torch.no_grad()
    def _take_first(self, x: Tensor) -> None:
        values = values_per_statistic(x, *pooled_axes(x))
        require_spread(x, values, norm="frozen_bn", per="channel", advice="use a larger batch_size or drop_last=true")
        wide = x.to(torch.promote_types(x.dtype, self.running_mean.dtype))
        var, mean = torch.var_mean(wide, pooled_axes(x), correction=0)
        # A choice of values and not of branches, which would wait for the device.
        first = self.batches_seen == 0
        self.running_mean.copy_(torch.where(first, mean, self.running_mean))
        self.running_var.copy_(torch.where(first, var, self.running_var))
        self.batches_seen.add_(1)


@NORMS.register("frozen_bn")
def frozen_bn(channels: int, *, statistics: Literal["first_batch", "given"], eps: PositiveFloat, affine: bool) -> Norm:
    """Frozen batch norm, fixed statistics for each channel: y = gain * (x - mean) / sqrt(var + eps) + bias.

    Training and evaluation are the same: the layer is linear in x, and neither batches nor gradients move mean and
    variance. gain and bias learn. It answers the first batch as ``bn`` does, and stays there. A 2-D input (B, C) is
    treated alike.

    Ioffe & Szegedy 2015, algorithm 2, line 11, in training; for detection He et al. 2016, appendix A.

    Options:
        statistics: ``first_batch``: mean and biased variance over B, H, W of the first training batch; those of a
            constant channel divide by sqrt(eps). ``given``: those that were loaded, (0, 1) from scratch. The second
            is the cheaper one: the first looks at every batch, as it does not wait to see which is the first.

    Raises:
        ValueError: (in use) one value per channel in training under ``first_batch``.
    """
    return FrozenBatchNorm(channels, eps=eps, from_first_batch=statistics == "first_batch", affine=affine)
