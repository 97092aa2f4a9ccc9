"""Filter response normalization: each map of each sample divided by its size, and a threshold that is learnt."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from bnexp.config.capabilities import Capabilities
from bnexp.config.checks import PositiveFloat
from bnexp.norms.base import NORMS, Norm, per_channel, require_spread, values_per_statistic
from bnexp.norms.rms import SIGN


class FilterResponseNorm(Norm):
    """z = max(gain * x / sqrt(nu2_nc + |eps|) + bias, tau), nu2_nc the mean square of sample n's channel c.

    Args:
        learn_eps, tlu, vectors: see ``frn``.

    Attributes:
        eps: a number, or a parameter, one for the layer.
        tau: [C] or None, 0 at first.
    """

    def __init__(
        self,
        channels: int,
        *,
        eps: float,
        learn_eps: bool,
        tlu: bool,
        vectors: Literal["skip", "refuse"],
        affine: bool,
    ) -> None:
        super().__init__(channels, affine=affine)
        self.eps: Tensor | float = nn.Parameter(torch.tensor(eps)) if learn_eps else eps
        self.tau = nn.Parameter(torch.zeros(channels)) if tlu else None
        self.vectors = vectors

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x, (B, C, ...), and cut it off below.

        Raises:
            ValueError: a 1x1 map whose eps is not learnt, or a vector under ``refuse``.
        """
        self.skipped = x.ndim == 2 and self.vectors == "skip"
        y = self.scaled(x if self.skipped else self._standardized(x))
        return y if self.tau is None else torch.maximum(y, per_channel(self.tau, y))

    def _standardized(self, x: Tensor) -> Tensor:
        axes = tuple(range(2, x.ndim))
        if x.ndim == 2 or not isinstance(self.eps, Tensor):
            advice = "it is undefined for vectors, and for 1x1 maps but with norm.learn_eps=true; use norm=rms"
            values = values_per_statistic(x, *axes)
            require_spread(x, values, norm="frn", per="sample and channel", advice=advice, why=SIGN)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        eps = self.eps.abs() if isinstance(self.eps, Tensor) else self.eps
        return (wide * (wide.square().mean(axes, keepdim=True) + eps).rsqrt()).to(x.dtype)


@NORMS.register("frn", Capabilities(ranks=("sequences", "maps"), elsewhere="skipped"))
def frn(
    channels: int,
    *,
    eps: PositiveFloat,
    learn_eps: bool,
    tlu: bool,
    vectors: Literal["skip", "refuse"],
    affine: bool,
) -> Norm:
    """Filter response normalization, over H, W for each sample and channel: z = max(gain * x_hat + bias, tau).

    x_hat = x / sqrt(mean(x^2) + |eps|); values are not centred. The learnt threshold tau, one number a channel, takes
    the place of the activation: use activation=identity. (With relu the net cuts off at the larger of 0 and tau.)
    Training and evaluation are the same. The norm is undefined for a 2-D input (B, C): its statistics have one value
    each, of which the norm would leave the sign alone.

    Singh & Krishnan 2020, eq. 1 to 3.

    Options:
        learn_eps: whether each layer learns eps, starting from the given number. The paper advises this for 1x1 maps,
            on which the norm then is defined: x / sqrt(x^2 + |eps|) is a smooth sign.
        tlu: whether there is the threshold (thresholded linear unit); without it z = gain * x_hat + bias.
        vectors: what the layer does with 2-D inputs, which it gets behind LeNet's convolutions, for example. ``skip``:
            z = max(gain * x + bias, tau) without normalization; the run says so at its start, and a model in which
            nothing is normalized is refused. ``refuse``: an error.

    Raises:
        ValueError: (in use) a 1x1 map whose eps is not learnt, or a vector under ``refuse``.
    """
    return FilterResponseNorm(channels, eps=eps, learn_eps=learn_eps, tlu=tlu, vectors=vectors, affine=affine)
