"""Synchronized batch normalization: batch norm of a batch that lies in parts, on one device or on many."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from bnexp.config.capabilities import Capabilities
from bnexp.config.checks import Positive, PositiveFloat
from bnexp.norms.base import NORMS, Norm, values_per_statistic
from bnexp.norms.batch import BatchNorm, Momentum, pooled_axes


class _Sum(torch.autograd.Function):
    """Sum over the processes. The loss of each process depends on the sum, so its gradient is summed over them, too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        total = dy.clone()
        dist.all_reduce(total)
        return total


def over_processes(x: Tensor) -> Tensor:
    """The sum of x over the processes of ``torch.distributed``, if it runs."""
    if not (dist.is_available() and dist.is_initialized()):
        return x
    total: Tensor = _Sum.apply(x)
    return total


def moments(parts: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, Tensor]:
    """Count, mean [C] and biased variance [C] of the channels of all parts, of all processes.

    Merged from the parts' own count n_k, mean_k and variance (Chan et al. 1979, eq. 2.1, for many parts)::

        n = sum n_k,  mean = sum n_k * mean_k / n,  var = sum n_k * (var_k + (mean_k - mean)^2) / n
    """
    counts = [values_per_statistic(part, *pooled_axes(part)) for part in parts]
    own = [torch.var_mean(part, pooled_axes(part), correction=0) for part in parts]
    n = over_processes(own[0][0].new_full((), sum(counts)))
    mean = over_processes(torch.stack([n_k * mean_k for n_k, (_, mean_k) in zip(counts, own, strict=True)]).sum(0)) / n
    spread = [n_k * (var_k + (mean_k - mean).square()) for n_k, (var_k, mean_k) in zip(counts, own, strict=True)]
    return n, mean, over_processes(torch.stack(spread).sum(0)) / n


class SyncBatchNorm(BatchNorm):
    """y = gain * (x - mean_c) / sqrt(var_c + eps) + bias by the statistics of all shards together.

    Args:
        shards: the number of parts of nearly equal size into which the batch is cut.
    """

    name = "sync_bn"

    def __init__(self, channels: int, *, shards: int, eps: float, momentum: float | None, affine: bool) -> None:
        super().__init__(channels, eps=eps, momentum=momentum, affine=affine)
        self.shards = shards

    def by_batch(self, x: Tensor, *, track: bool) -> Tensor:
        """Normalize by the statistics of all shards; with ``track``, the running ones follow them."""
        wide = self.wide(x)
        n, mean, var = moments(wide.tensor_split(min(self.shards, len(x))))
        if track:
            self.advance(mean, var * (n / (n - 1)))
        return self.scaled(self.standardized(wide, mean, var)).to(x.dtype)


@NORMS.register("sync_bn", Capabilities(batch_of_one=("refused", "differ"), restorable=True, as_bn=True))
def sync_bn(channels: int, *, shards: Positive, eps: PositiveFloat, momentum: Momentum, affine: bool) -> Norm:
    """Synchronized batch norm, over all shards' B, H, W by channel: y = gain * (x - mean) / sqrt(var + eps) + bias.

    The layer computes what ``bn`` computes for the whole batch, and merges the batch's mean and variance from the means
    and variances of its shards. No command of bnexp trains in several processes, so that all shards are those of one. A
    program that uses the layer under ``torch.distributed`` has shards in every process: the forward pass all-reduces
    counts, means and variances, and the backward pass all-reduces the gradients with respect to them. dx is then the
    gradient of the sum of all processes' losses, while each process has its own part of the gradients of gain and bias.
    Training uses the statistics of all shards, evaluation the running ones. A 2-D input (B, C) has B values a channel.

    Peng et al. 2018 (MegDet, "cross-GPU batch normalization"); Chan, Golub & LeVeque 1979, eq. 2.1.

    Options:
        shards: the number of parts of nearly equal size into which this process's batch is cut, as if each part lay on
            a device; a batch of fewer samples has one shard for each sample.
        momentum: weight of the newest batch; null for the plain average over all batches.

    Raises:
        ValueError: (in use) one value per channel in a process's batch in training.
    """
    return SyncBatchNorm(channels, shards=shards, eps=eps, momentum=momentum, affine=affine)
