"""Instance normalization: one mean and variance for each sample and channel."""

from __future__ import annotations

from bnexp.checks import PositiveFloat
from bnexp.norms.base import NORMS, Norm
from bnexp.norms.group import GroupNorm


class InstanceNorm(GroupNorm):
    """y = gain * (x - mean_nc) / sqrt(var_nc + eps) + bias for each sample n and channel c: one group a channel."""

    word = "in"
    per = "sample and channel"
    advice = "it is undefined for vectors and 1x1 maps; use norm=ln, norm=gn or norm=bn"

    def __init__(self, channels: int, *, eps: float, affine: bool) -> None:
        super().__init__(channels, groups=channels, eps=eps, affine=affine)


@NORMS.register("in")
def instance(channels: int, *, eps: PositiveFloat, affine: bool) -> Norm:
    """Instance normalization, over H, W for each sample and channel: y = gain * (x - mean) / sqrt(var + eps) + bias.

    gain and bias are one number a channel; there are no running statistics, and training and evaluation are the same.
    A 2-D input (B, C) has one value a statistic, so that the norm is undefined there.

    Ulyanov, Vedaldi & Lempitsky 2016; Wu & He 2018, eq. 5.

    Raises:
        ValueError: (in use) a vector or a 1x1 map.
    """
    return InstanceNorm(channels, eps=eps, affine=affine)
