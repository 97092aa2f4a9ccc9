"""Layer normalization, in its two meanings for maps: over the whole sample, or over the channels of a position."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from bnexp.config.capabilities import Capabilities
from bnexp.config.checks import PositiveFloat
from bnexp.norms.base import NORMS, Norm, require_spread
from bnexp.norms.group import GroupNorm


class LayerNorm(GroupNorm):
    """y = gain * (x - mean_n) / sqrt(var_n + eps) + bias for each sample n: group norm with one group."""

    name = "ln"
    per = "sample"
    advice = "use more channels or norm=none"

    def __init__(self, channels: int, *, eps: float, affine: bool) -> None:
        super().__init__(channels, groups=1, eps=eps, affine=affine)


class PositionLayerNorm(Norm):
    """y = gain * (x - mean_nhw) / sqrt(var_nhw + eps) + bias for each sample n and position h, w, over its C values."""

    def __init__(self, channels: int, *, eps: float, affine: bool) -> None:
        super().__init__(channels, affine=affine)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x, (B, C, ...).

        Raises:
            ValueError: there is a single channel.
        """
        advice = "use more channels or norm=ln"
        require_spread(x, self.channels, norm="ln_c", per="position", advice=advice)
        y = F.layer_norm(x.movedim(1, -1), (self.channels,), self.gain, self.bias, self.eps)
        return y.movedim(-1, 1)


@NORMS.register("ln")
def ln(channels: int, *, eps: PositiveFloat, affine: bool) -> Norm:
    """Layer normalization, over C, H, W for each sample: y = gain * (x - mean) / sqrt(var + eps) + bias.

    gain and bias are one number a channel, as in group norm with one group (``nn.LayerNorm([C, H, W])`` has one a
    value). Training and evaluation are the same. A 2-D input (B, C) has C values a sample; there ``ln`` is ``ln_c``.

    Ba, Kiros & Hinton 2016, eq. 3; for maps Wu & He 2018, eq. 4 and figure 2.

    Raises:
        ValueError: (in use) one value per sample, as C = 1 gives on (B, C) or on 1x1 maps.
    """
    return LayerNorm(channels, eps=eps, affine=affine)


@NORMS.register("ln_c", Capabilities(fused=False))
def ln_c(channels: int, *, eps: PositiveFloat, affine: bool) -> Norm:
    """Layer normalization by position, over C for each sample and h, w: y = gain * x_hat + bias.

    x_hat = (x - mean) / sqrt(var + eps); gain and bias are one number a channel. Training and evaluation are the same.
    A 2-D input (B, C) has C values a sample.

    Ba, Kiros & Hinton 2016, eq. 3, applied to each position, as in transformers and ConvNeXt (Liu et al. 2022).

    Raises:
        ValueError: (in use) there is a single channel.
    """
    return PositionLayerNorm(channels, eps=eps, affine=affine)
