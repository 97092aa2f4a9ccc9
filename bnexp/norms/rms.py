"""Root mean square normalization: each sample divided by its size, without centring."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

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
