"""Batch renormalization: batch norm, corrected towards what evaluation does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from bnexp.config.capabilities import Capabilities
from bnexp.config.checks import Fraction, NonNegative, PositiveFloat, Range
from bnexp.norms.base import NORMS, Norm, per_channel, values_per_statistic
from bnexp.norms.batch import BatchNorm, Momentum, pooled_axes

AtMostOne = Annotated[float, Range(above=0, most=1)]


@dataclass(frozen=True)
class Limit:
    """A bound that rises linearly from ``first`` to ``last``.

    Attributes:
        start, end: where it begins and ends to rise, as fractions of training.
    """

    first: float
    last: float
    start: float
    end: float

    def at(self, progress: Tensor) -> Tensor:
        """The bound after this fraction of training, a scalar."""
        risen = ((progress - self.start) / (self.end - self.start)).clamp(0, 1)
        return self.first + (self.last - self.first) * risen


class BatchRenorm(BatchNorm):
    """y = gain * ((x - mean_c) / std_c * r_c + d_c) + bias; r and d are bounded, and constants to the gradient.

    Args:
        rmax, dmax: the bounds of r and d.
        steps: how many batches the layer sees in the whole training.

    Attributes:
        batches_trained: how many of these batches the layer has seen, an int64 scalar.
    """

    name = "batch_renorm"
    batches_trained: Tensor

    def __init__(
        self,
        channels: int,
        *,
        rmax: Limit,
        dmax: Limit,
        steps: int,
        eps: float,
        momentum: float | None,
        affine: bool,
    ) -> None:
        super().__init__(channels, eps=eps, momentum=momentum, affine=affine)
        self.rmax = rmax
        self.dmax = dmax
        self.steps = steps
        # Not ``batches_seen``, which goes on where the running statistics are another run's.
        self.register_buffer("batches_trained", torch.zeros((), dtype=torch.int64))

    def by_batch(self, x: Tensor, *, track: bool) -> Tensor:
        """Normalize by the statistics of ``x``; with ``track``, correct the result and move the running statistics.

        The correction makes training resemble evaluation, so that evaluation by the batch at hand needs none.
        """
        if not track:
            return super().by_batch(x, track=False)
        x_hat, mean, var = self.standardize(self.wide(x))
        r, d = self._corrections(x, mean, var)
        self.advance(mean, var)
        self.batches_trained.add_(1)
        return self.scaled(x_hat * per_channel(r, x) + per_channel(d, x)).to(x.dtype)

    def _corrections(self, x: Tensor, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
        """Return r and d, each [C], from the batch's statistics and the running ones before this batch."""
        progress = self.batches_trained.to(mean.dtype) / self.steps
        rmax, dmax = self.rmax.at(progress), self.dmax.at(progress)
        m = values_per_statistic(x, *pooled_axes(x))
        batch_std = (var * ((m - 1) / m) + self.eps).sqrt()
        running_std = (self.running_var + self.eps).sqrt()
        r = batch_std / running_std
        d = (mean - self.running_mean) / running_std
        return torch.clamp(r, 1 / rmax, rmax), torch.clamp(d, -dmax, dmax)


@NORMS.register(
    "batch_renorm",
    Capabilities(batch_of_one=("refused", "differ"), fused=False, restorable=True, length_dependent=True, as_bn=True),
)
def batch_renorm(
    channels: int,
    *,
    rmax: Annotated[float, Range(least=1)],
    dmax: NonNegative,
    warmup: Fraction,
    rmax_reached: AtMostOne,
    dmax_reached: AtMostOne,
    eps: PositiveFloat,
    momentum: Momentum,
    affine: bool,
    steps: int = 1,
) -> Norm:
    """Batch renormalization, over B, H, W for each channel: y = gain * ((x - mean) / std * r + d) + bias.

    Training takes mean and std = sqrt(var + eps) of the batch; r = std / running_std within [1/rmax, rmax] and
    d = (mean - running_mean) / running_std within [-dmax, dmax] are constants to the gradient. Inside the bounds y is
    the answer of evaluation, which uses the running statistics. The bounds rise linearly from rmax = 1 and dmax = 0, at
    which the layer is ``bn``. The running statistics are the same as in ``bn``, the mean and the unbiased variance, and
    running_std = sqrt(running_var + eps); the paper averages std itself. A 2-D input (B, C) has B values a channel.

    Ioffe 2017, algorithm 1; the schedule from section 4.

    Options:
        rmax, dmax: the bounds at the end.
        warmup: the fraction of the training's steps in which the bounds stay at 1 and 0.
        rmax_reached, dmax_reached: the fraction of the training's steps after which each bound has its last value.
        momentum: weight of the newest batch; null for the plain average over all batches.

    Raises:
        ValueError: a bound would be reached before the warm-up ends; (in use) one value per channel in training.
    """
    for setting, reached in (("rmax_reached", rmax_reached), ("dmax_reached", dmax_reached)):
        if reached <= warmup:
            raise ValueError(f"norm.{setting}={reached}: out of range; allowed is above norm.warmup={warmup}")
    return BatchRenorm(
        channels,
        rmax=Limit(1, rmax, warmup, rmax_reached),
        dmax=Limit(0, dmax, warmup, dmax_reached),
        steps=steps,
        eps=eps,
        momentum=momentum,
        affine=affine,
    )
