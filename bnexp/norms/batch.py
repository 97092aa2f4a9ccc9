"""Batch normalization: one mean and variance a channel, over the batch and all positions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor

from bnexp.checks import PositiveFloat, Range
from bnexp.norms.base import NORMS, Norm, require_spread, values_per_statistic


class BatchStatistics(Norm, ABC):
    """Base of the norms that share statistics across the batch and need stored ones to evaluate single samples.

    Training normalizes by the batch at hand and moves the running statistics. Evaluation normalizes by the running
    ones, or, with ``source = "batch"``, by the batch at hand and touches no buffer. Subclasses define ``by_batch`` and
    ``by_running``.

    Args:
        eps: added to the variance, inside the root.
        momentum: weight of the newest batch in the running statistics (torch's convention); None weighs all batches
            seen so far equally.

    Attributes:
        word: the norm's name in configs, for messages.
        source: which statistics evaluation uses; whoever evaluates may set it.
        frozen: the layer is in evaluation mode for good.
        running_mean: [C], 0 at first.
        running_var: [C], 1 at first.
        batches_seen: how many batches the running statistics have taken in, an int64 scalar.
    """

    word: ClassVar[str]
    source: Literal["running", "batch"] = "running"
    frozen = False
    running_mean: Tensor
    running_var: Tensor
    batches_seen: Tensor

    def __init__(self, channels: int, *, eps: float, momentum: float | None, affine: bool) -> None:
        super().__init__(channels, affine=affine)
        self.eps = eps
        self.momentum = momentum
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.register_buffer("batches_seen", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        """Normalize x, (B, C, ...).

        Raises:
            ValueError: the statistics of the batch are needed and a channel has a single value.
        """
        if not self.training and self.source == "running":
            return self.by_running(x)
        values = values_per_statistic(x, 0, *range(2, x.ndim))
        advice = "use a larger batch_size or drop_last=true"
        require_spread(x, values, norm=self.word, per="channel", advice=advice)
        return self.by_batch(x, track=self.training)

    def train(self, mode: bool = True) -> Self:
        """Set training or, where ``mode`` is False or the layer is frozen, evaluation mode."""
        return super().train(mode and not self.frozen)

    @abstractmethod
    def by_batch(self, x: Tensor, *, track: bool) -> Tensor:
        """Normalize by the statistics of ``x``; with ``track``, the running ones follow them."""

    @abstractmethod
    def by_running(self, x: Tensor) -> Tensor:
        """Normalize by the running statistics."""

    @torch.no_grad()
    def restore(self, x: Tensor) -> None:
        """gain = sqrt(var + eps) and bias = mean of the batch (Ioffe & Szegedy 2015, sec. 3): y = x on this batch."""
        var, mean = torch.var_mean(x, (0, *range(2, x.ndim)), correction=0)
        if self.gain is None or self.bias is None:
            raise ValueError("affine=identity: needs a gain and a bias; use norm.affine=true")
        self.gain.copy_((var + self.eps).sqrt())
        self.bias.copy_(mean)

    @torch.no_grad()
    def advance(self, mean: Tensor, var: Tensor) -> None:
        """Move the running statistics, in place, towards those of one more batch: r <- r + rate * (batch - r).

        Args:
            mean: [C], the batch's.
            var: [C], the batch's.
        """
        self.batches_seen.add_(1)
        # 1 / batches_seen stays a tensor: reading the number would wait for the device.
        rate = self.batches_seen.to(mean.dtype).reciprocal() if self.momentum is None else self.momentum
        self.running_mean.add_(rate * (mean - self.running_mean))
        self.running_var.add_(rate * (var - self.running_var))


class BatchNorm(BatchStatistics):
    """y = gain * (x - mean_c) / sqrt(var_c + eps) + bias, by torch's fused ``F.batch_norm``.

    The statistics pool B values a channel of (B, C), B*L of (B, C, L) and B*H*W of (B, C, H, W). The variance is the
    biased one in the equation, the unbiased one in ``running_var``.
    """

    word = "bn"

    def by_batch(self, x: Tensor, *, track: bool) -> Tensor:
        """Normalize by the statistics of ``x``; with ``track``, the running ones follow them."""
        if not track:
            return self._batch_norm(x, None, None)
        if self.momentum is not None:
            self.batches_seen.add_(1)
            return self._batch_norm(x, self.running_mean, self.running_var, momentum=self.momentum)
        # With momentum 1 the fused kernel leaves the batch's own statistics in the buffers that it is given.
        mean, var = torch.zeros_like(self.running_mean), torch.zeros_like(self.running_var)
        y = self._batch_norm(x, mean, var, momentum=1.0)
        self.advance(mean, var)
        return y

    def by_running(self, x: Tensor) -> Tensor:
        """Normalize by the running statistics."""
        return self._batch_norm(x, self.running_mean, self.running_var, training=False)

    def _batch_norm(
        self, x: Tensor, mean: Tensor | None, var: Tensor | None, *, training: bool = True, momentum: float = 0.0
    ) -> Tensor:
        return F.batch_norm(x, mean, var, self.gain, self.bias, training=training, momentum=momentum, eps=self.eps)


@NORMS.register("bn")
def bn(
    channels: int, *, eps: PositiveFloat, momentum: Annotated[float, Range(above=0, most=1)] | None, affine: bool
) -> Norm:
    """Batch normalization, over B, H, W for each channel: y = gain * (x - mean) / sqrt(var + eps) + bias.

    Training uses the statistics of the batch; evaluation the running ones, r <- (1 - momentum) * r + momentum * batch,
    which keep the unbiased variance. A 2-D input (B, C) has B values a channel.

    Ioffe & Szegedy 2015, algorithms 1 and 2; Wu & He 2018, eq. 3.

    Options:
        momentum: weight of the newest batch, torch's convention (TensorFlow's 0.9 is 0.1 here); null for the plain
            average over all batches.

    Raises:
        ValueError: (in use) one value per channel in training, as a batch of 1 on (B, C) or on 1x1 maps gives.
    """
    return BatchNorm(channels, eps=eps, momentum=momentum, affine=affine)
