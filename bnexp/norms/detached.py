"""Detached batch normalization: the forward pass of batch norm, and a gradient that ignores its statistics."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from bnexp.config.capabilities import Capabilities
from bnexp.config.checks import PositiveFloat
from bnexp.norms.base import NORMS, Norm
from bnexp.norms.batch import BatchNorm, Momentum, pooled_axes

Detach = Literal["mean", "variance", "both"]


class DetachedBatchNorm(BatchNorm):
    """y = gain * (x - mean_c) / sqrt(var_c + eps) + bias, where mean, variance or both are constants to the gradient.

    Args:
        detach: which.
    """

    name = "detached_bn"

    def __init__(self, channels: int, *, detach: Detach, eps: float, momentum: float | None, affine: bool) -> None:
        super().__init__(channels, eps=eps, momentum=momentum, affine=affine)
        self.detach = detach

    def by_batch(self, x: Tensor, *, track: bool) -> Tensor:
        """Normalize by the statistics of ``x``; with ``track``, the running ones follow them."""
        wide = self.wide(x)
        var, mean = torch.var_mean(wide, pooled_axes(x), correction=0)
        if track:
            self.advance(mean, self.unbiased_var(var, x))
        mean = mean if self.detach == "variance" else mean.detach()
        var = var if self.detach == "mean" else var.detach()
        return self.scaled(self.standardized(wide, mean, var)).to(x.dtype)


@NORMS.register("detached_bn", Capabilities(batch_of_one=("refused", "differ"), restorable=True, as_bn=True))
def detached_bn(channels: int, *, detach: Detach, eps: PositiveFloat, momentum: Momentum, affine: bool) -> Norm:
    """Batch norm whose gradient takes statistics as constants, over B, H, W by channel: y = gain * x_hat + bias.

    x_hat = (x - mean) / sqrt(var + eps). The output is the same as with ``bn``, in training and evaluation; the
    gradient is not::

        both:      dx = gain / sqrt(var + eps) * dy
        mean:      dx = gain / sqrt(var + eps) * (dy - x_hat * mean(dy * x_hat))
        variance:  dx = gain / sqrt(var + eps) * (dy - mean(dy))

    To first order the variance does not change with the mean, so that the two terms are independent. A 2-D input (B, C)
    has B values a channel.

    Ioffe & Szegedy 2015, section 2, argue against it: an update that ignores the normalization may have no effect.

    Options:
        detach: the statistics through which no gradient flows.
        momentum: weight of the newest batch; null for the plain average over all batches.

    Raises:
        ValueError: (in use) one value per channel in training, as a batch of 1 on (B, C) or on 1x1 maps gives.
    """
    return DetachedBatchNorm(channels, detach=detach, eps=eps, momentum=momentum, affine=affine)
