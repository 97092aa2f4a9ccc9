"""Root mean square normalization: each sample, or each position of it, divided by its size, without centring."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from bnexp.config.capabilities import Capabilities
from bnexp.config.checks import PositiveFloat
from bnexp.norms.base import NORMS, Norm, require_spread, values_per_statistic

# Dividing a single value by the root of its square leaves this.
SIGN = "of which the sign alone would be left"


class RMSNorm(Norm):
    """y = gain * x / sqrt(mean_n(x^2) + eps) + bias for each sample n, over all of its values."""

    def __init__(self, channels: int, *, eps: float, affine: bool) -> None:
        super().__init__(channels, affine=affine)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x, (B, C, ...).

        Raises:
            ValueError: a sample has a single value.
        """
        values = values_per_statistic(x, *range(1, x.ndim))
        require_spread(x, values, norm="rms", per="sample", advice="use more channels or norm=none", why=SIGN)
        return self.scaled(F.rms_norm(x, x.shape[1:], eps=self.eps))


class PositionRMSNorm(RMSNorm):
    """y = gain * x / sqrt(mean_nhw(x^2) + eps) + bias for each sample n and position h, w, over its C values."""

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x, (B, C, ...).

        Raises:
            ValueError: there is a single channel.
        """
        advice = "use more channels or norm=rms"
        require_spread(x, self.channels, norm="rms_c", per="position", advice=advice, why=SIGN)
        return self.scaled(F.rms_norm(x.movedim(1, -1), (self.channels,), eps=self.eps).movedim(-1, 1))


@NORMS.register("rms")
def rms(channels: int, *, eps: PositiveFloat, affine: bool) -> Norm:
    """RMS normalization, over C, H, W for each sample: y = gain * x / sqrt(mean(x^2) + eps) + bias.

    This is ``ln`` without centring: the output does not depend on the scale of a sample, but on its shift. gain and
    bias are one number a channel. Training and evaluation are the same. A 2-D input (B, C) has C values a sample.

    Zhang & Sennrich 2019, eq. 4, which has no eps and leaves the bias to the layer.

    Raises:
        ValueError: (in use) one value per sample, as C = 1 gives on (B, C) or on 1x1 maps.
    """
    return RMSNorm(channels, eps=eps, affine=affine)


@NORMS.register("rms_c", Capabilities(fused=False))
def rms_c(channels: int, *, eps: PositiveFloat, affine: bool) -> Norm:
    """RMS normalization by position, over C for each sample and h, w: y = gain * x / sqrt(mean(x^2) + eps) + bias.

    This is ``ln_c`` without centring, as transformers have it. gain and bias are one number a channel. Training and
    evaluation are the same. A 2-D input (B, C) has C values a sample; there ``rms_c`` is ``rms``.

    Zhang & Sennrich 2019, eq. 4, at each position; it has no eps and leaves the bias to the layer.

    Raises:
        ValueError: (in use) there is a single channel.
    """
    return PositionRMSNorm(channels, eps=eps, affine=affine)
