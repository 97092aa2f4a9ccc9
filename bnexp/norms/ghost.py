"""Ghost batch normalization: batch norm of parts of the batch, each by its own statistics."""

from __future__ import annotations

from typing import Annotated

import torch
from torch import Tensor

from bnexp.config.capabilities import Capabilities
from bnexp.config.checks import PositiveFloat, Range
from bnexp.norms.base import NORMS, Norm
from bnexp.norms.batch import BatchNorm, Momentum


def cut(samples: int, size: int) -> tuple[int, int]:
    """How many chunks have ``size`` samples, and how many samples a last, smaller chunk has.

    A single sample left over joins the chunk before it.
    """
    whole, rest = divmod(samples, size)
    return (whole - 1, size + 1) if rest == 1 and whole else (whole, rest)


class GhostBatchNorm(BatchNorm):
    """y = gain * (x - mean_kc) / sqrt(var_kc + eps) + bias for each chunk k of the batch and channel c.

    Args:
        size: samples a chunk.
    """

    name = "ghost_bn"

    def __init__(self, channels: int, *, size: int, eps: float, momentum: float | None, affine: bool) -> None:
        super().__init__(channels, eps=eps, momentum=momentum, affine=affine)
        self.size = size

    def by_batch(self, x: Tensor, *, track: bool) -> Tensor:
        """Normalize each chunk by its own statistics; with ``track``, the running ones follow their average."""
        whole, _ = cut(len(x), self.size)
        end = whole * self.size
        parts = [(part, count) for part, count in ((x[:end], whole), (x[end:], 1)) if len(part)]
        y, mean, var = zip(*(self._in_chunks(part, count) for part, count in parts), strict=True)
        if track:
            shares = [len(part) / len(x) for part, _ in parts]
            self.advance(_average(mean, shares), _average(var, shares))
        return torch.cat(y)

    def _in_chunks(self, x: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Normalize equal chunks as if they were channels; returns y and the chunks' average mean and variance."""
        beside = x.reshape(count, -1, *x.shape[1:]).transpose(0, 1).flatten(1, 2)
        gain, bias = (None if each is None else each.repeat(count) for each in (self.gain, self.bias))
        y, mean, var = self.standardize(beside, gain, bias)
        behind = y.reshape(len(y), count, *x.shape[1:]).transpose(0, 1).flatten(0, 1)
        return behind, mean.view(count, -1).mean(0), var.view(count, -1).mean(0)


def _average(values: tuple[Tensor, ...], shares: list[float]) -> Tensor:
    return torch.stack([value * share for value, share in zip(values, shares, strict=True)]).sum(0)


@NORMS.register("ghost_bn", Capabilities(batch_of_one=("refused", "differ"), fused=False, as_bn=True))
def ghost_bn(
    channels: int, *, size: Annotated[int, Range(least=2)], eps: PositiveFloat, momentum: Momentum, affine: bool
) -> Norm:
    """Ghost batch norm, over g samples, H, W for each channel: y = gain * (x - mean) / sqrt(var + eps) + bias.

    Training cuts the batch, whose order is random, into chunks of g samples in a row. The last chunk may be smaller; a
    single sample left over joins the chunk before it. A batch of up to g + 1 samples is one chunk, as in ``bn``.
    Evaluation uses running statistics. They move once a batch, towards the chunks' means and unbiased variances,
    averaged with the number of samples as weights; the paper moves them once a chunk, so that the last chunks weigh
    most. A 2-D input (B, C) has g values a channel.

    Hoffer, Hubara & Soudry 2017, algorithm 1.

    Options:
        size: g.
        momentum: weight of the newest batch, as in ``bn``; null for the plain average over all batches.

    Raises:
        ValueError: (in use) one value per channel in training, as a batch of 1 on (B, C) or on 1x1 maps gives.
    """
    return GhostBatchNorm(channels, size=size, eps=eps, momentum=momentum, affine=affine)
