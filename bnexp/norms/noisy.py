"""Noisy batch normalization: batch norm, and noise whose distribution changes at each step."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from bnexp.config.capabilities import Capabilities
from bnexp.config.checks import NonNegative, PositiveFloat, Range
from bnexp.norms.base import NORMS, Norm, per_channel
from bnexp.norms.batch import BatchNorm, Momentum
from bnexp.randomness import Stream


class Noise(Stream):
    """In training y = s * x + m with random s and m for each value, in evaluation y = x.

    At each step each channel c draws mu_c ~ U(-mean_range, mean_range) and sigma_c ~ U(1, scale_max); each value then
    draws m ~ U(mu_c - mean_jitter, mu_c + mean_jitter) and s ~ N(sigma_c, scale_jitter^2).
    """

    def __init__(self, *, mean_range: float, scale_max: float, mean_jitter: float, scale_jitter: float) -> None:
        super().__init__()
        self.mean_range = mean_range
        self.scale_max = scale_max
        self.mean_jitter = mean_jitter
        self.scale_jitter = scale_jitter

    def forward(self, x: Tensor) -> Tensor:
        """Same shape as x, (B, C, ...)."""
        if not self.training:
            return x
        wide, channels = torch.promote_types(x.dtype, torch.float32), x.shape[1:2]
        mu = self.mean_range * (2 * self.uniform(channels).to(wide) - 1)
        sigma = 1 + (self.scale_max - 1) * self.uniform(channels).to(wide)
        m = per_channel(mu, x) + self.mean_jitter * (2 * self.uniform(x.shape).to(wide) - 1)
        s = per_channel(sigma, x) + self.scale_jitter * self.normal(x.shape).to(wide)
        return (s * x + m).to(x.dtype)


class NoisyBatchNorm(BatchNorm):
    """Batch norm with noise behind it."""

    name = "noisy_bn"

    def __init__(self, channels: int, *, noise: Noise, eps: float, momentum: float | None, affine: bool) -> None:
        super().__init__(channels, eps=eps, momentum=momentum, affine=affine)
        self.noise = noise

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x, (B, C, ...), and disturb it."""
        y: Tensor = self.noise(super().forward(x))
        return y


class NoisyShift(Norm):
    """The same noise behind a bias alone: y = s * (x + bias) + m."""

    def __init__(self, channels: int, *, noise: Noise, affine: bool) -> None:
        super().__init__(channels, affine=affine, gain=False)
        self.noise = noise

    def forward(self, x: Tensor) -> Tensor:
        """Shift x, (B, C, ...), and disturb it."""
        y: Tensor = self.noise(self.scaled(x))
        return y


@NORMS.register("noisy_bn", Capabilities(batch_of_one=("refused", "differ"), as_bn=True))
def noisy_bn(
    channels: int,
    *,
    normalize: bool,
    mean_range: NonNegative,
    scale_max: Annotated[float, Range(least=1)],
    mean_jitter: NonNegative,
    scale_jitter: NonNegative,
    eps: PositiveFloat,
    momentum: Momentum,
    affine: bool,
) -> Norm:
    """Noisy batch norm, over B, H, W for each channel: y = s * (gain * (x - mean) / sqrt(var + eps) + bias) + m.

    In training each channel draws mu ~ U(-mean_range, mean_range) and sigma ~ U(1, scale_max) anew at each step. Each
    value of the channel (one for each sample and position) then draws m ~ U(mu - mean_jitter, mu + mean_jitter) and
    s ~ N(sigma, scale_jitter^2): the next layer's inputs have another distribution at each step. Evaluation is the same
    as for ``bn``, without noise. A 2-D input (B, C) has B values a channel. The noise depends only on the run's seed,
    the layer's name and the step.

    Santurkar et al. 2018, section 2.1 and appendix A ("noisy" BatchNorm).

    Options:
        normalize: false is the control: the same noise without batch norm, y = s * (x + bias) + m. eps and momentum
            have no effect then.
        mean_range, scale_max, mean_jitter, scale_jitter: n_mu, n_sigma, r_mu, r_sigma of the paper; r_sigma is taken
            as a standard deviation.
        momentum: weight of the newest batch; null for the plain average over all batches.
        affine: whether there are gain and bias; without batch norm, a bias.

    Raises:
        ValueError: (in use) one value per channel in training, as a batch of 1 on (B, C) or on 1x1 maps gives.
    """
    noise = Noise(mean_range=mean_range, scale_max=scale_max, mean_jitter=mean_jitter, scale_jitter=scale_jitter)
    if normalize:
        return NoisyBatchNorm(channels, noise=noise, eps=eps, momentum=momentum, affine=affine)
    return NoisyShift(channels, noise=noise, affine=affine)
