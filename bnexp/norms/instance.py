"""Instance normalization: one mean and variance for each sample and channel."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from bnexp.config.capabilities import Capabilities
from bnexp.config.checks import PositiveFloat
from bnexp.norms.base import NORMS, Norm
from bnexp.norms.group import GroupNorm

Vectors = Literal["skip", "ln", "refuse"]


class InstanceNorm(GroupNorm):
    """y = gain * (x - mean_nc) / sqrt(var_nc + eps) + bias for each sample n and channel c: one group a channel.

    Args:
        vectors: what the layer does with inputs (B, C), see ``instance``.
    """

    name = "in"
    per = "sample and channel"
    advice = "it is undefined for vectors and 1x1 maps; use norm=ln, norm=gn or norm=bn"

    def __init__(self, channels: int, *, eps: float, affine: bool, vectors: Vectors) -> None:
        super().__init__(channels, groups=channels, eps=eps, affine=affine)
        self.vectors = vectors

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x, (B, C, ...).

        Raises:
            ValueError: a 1x1 map, or a vector under ``refuse``.
        """
        if x.ndim > 2 or self.vectors == "refuse":
            return super().forward(x)
        if self.vectors == "ln":
            return F.layer_norm(x, x.shape[1:], self.gain, self.bias, self.eps)
        self.skipped = True
        y = x if self.gain is None else self.gain * x
        return y if self.bias is None else y + self.bias


@NORMS.register("in", Capabilities(ranks=("sequences", "maps"), elsewhere="skipped"))
def instance(channels: int, *, eps: PositiveFloat, affine: bool, vectors: Vectors) -> Norm:
    """Instance normalization, over H, W for each sample and channel: y = gain * (x - mean) / sqrt(var + eps) + bias.

    gain and bias are one number a channel; there are no running statistics, and training and evaluation are the same.
    The norm is undefined for a 2-D input (B, C), which has one value a statistic; frameworks answer zeros there or,
    without saying so, compute layer norm.

    Ulyanov, Vedaldi & Lempitsky 2016; Wu & He 2018, eq. 5.

    Options:
        vectors: what the layer does with 2-D inputs, which it gets behind LeNet's convolutions, for example. ``skip``:
            y = gain * x + bias without normalization; the run says so at its start, and a model in which nothing is
            normalized is refused. ``ln``: layer norm over C. ``refuse``: an error.

    Raises:
        ValueError: (in use) a 1x1 map, or a vector under ``refuse``.
    """
    return InstanceNorm(channels, eps=eps, affine=affine, vectors=vectors)
