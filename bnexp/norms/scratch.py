"""Batch normalization written out, forward and backward, to be read next to Ioffe & Szegedy 2015, section 3.

Legend: m values a channel (x_1..x_m of the paper: B of (B, C), B*H*W of (B, C, H, W)); all sums and means run over
these m; E is the loss.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from bnexp.config.capabilities import Capabilities
from bnexp.config.checks import NonNegative, Range
from bnexp.norms.base import NORMS, Norm, per_channel
from bnexp.norms.batch import BatchStatistics, pooled_axes


def _channel_mean(x: Tensor) -> Tensor:
    return x.mean(pooled_axes(x))


def _channel_sum(x: Tensor) -> Tensor:
    return x.sum(pooled_axes(x))


class NormalizeByBatch(torch.autograd.Function):
    """Algorithm 1, the batch normalizing transform, and its backward pass (section 3, "During training").

    Inputs are x (B, C, ...), gain [C] (the paper's gamma), bias [C] (beta) and eps. Outputs are y, mean [C], var [C]
    (biased), and x_hat and inv_std [C] for the backward pass. Gradients flow through y alone, and only first ones: the
    backward pass takes x_hat as a constant, so that a second derivative would be wrong; it raises.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, gain: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Normalize, scale and shift."""
        mean = _channel_mean(x)
        centred = x - per_channel(mean, x)
        var = _channel_mean(centred.square())  # E[x^2] - E[x]^2 would cancel when the mean is large
        inv_std = (var + eps).rsqrt()
        x_hat = centred * per_channel(inv_std, x)
        y = per_channel(gain, x) * x_hat + per_channel(bias, x)
        return y, mean, var, x_hat, inv_std

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Keep x_hat, inv_std and gain; x itself is not needed again."""
        _, gain, _, _ = inputs
        _, mean, var, x_hat, inv_std = output
        ctx.mark_non_differentiable(mean, var, x_hat, inv_std)
        ctx.save_for_backward(x_hat, inv_std, gain)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        """Chain rule; dz stands for the derivative of E by z.

        The paper's lines::

            dx_hat = dy * gain
            dvar   = sum(dx_hat * (x - mean)) * -1/2 * (var + eps)^(-3/2)
            dmean  = sum(dx_hat) * -1/sqrt(var + eps) + dvar * sum(-2 * (x - mean)) / m
            dx     = dx_hat / sqrt(var + eps) + dvar * 2 * (x - mean) / m + dmean / m
            dgain  = sum(dy * x_hat)
            dbias  = sum(dy)

        The second term of dmean is 0, and x - mean = x_hat * sqrt(var + eps), so that::

            dx = (dx_hat - mean(dx_hat) - x_hat * mean(dx_hat * x_hat)) / sqrt(var + eps)
        """
        x_hat, inv_std, gain = ctx.saved_tensors
        dx_hat = dy * per_channel(gain, dy)
        along_mean = per_channel(_channel_mean(dx_hat), dy)
        along_x_hat = x_hat * per_channel(_channel_mean(dx_hat * x_hat), dy)
        dx = per_channel(inv_std, dy) * (dx_hat - along_mean - along_x_hat)
        return dx, _channel_sum(dy * x_hat), _channel_sum(dy), None


class NormalizeByRunning(torch.autograd.Function):
    """Algorithm 2, line 11: normalization by fixed statistics, a straight line for each channel.

    Inputs are x (B, C, ...), gain [C], bias [C], mean [C], var [C] and eps. Outputs are y, and x_hat and inv_std [C]
    for the backward pass. Differentiable once.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor, gain: Tensor, bias: Tensor, mean: Tensor, var: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Normalize, scale and shift."""
        inv_std = (var + eps).rsqrt()
        x_hat = (x - per_channel(mean, x)) * per_channel(inv_std, x)
        y = per_channel(gain, x) * x_hat + per_channel(bias, x)
        return y, x_hat, inv_std

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Keep x_hat, inv_std and gain. The running statistics are not kept: a later batch changes them in place."""
        _, gain, *_ = inputs
        _, x_hat, inv_std = output
        ctx.mark_non_differentiable(x_hat, inv_std)
        ctx.save_for_backward(x_hat, inv_std, gain)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None, None]:
        """The statistics do not depend on x, so only the direct path of the chain rule is left."""
        x_hat, inv_std, gain = ctx.saved_tensors
        dx = dy * per_channel(gain * inv_std, dy)
        return dx, _channel_sum(dy * x_hat), _channel_sum(dy), None, None, None


class ScratchBatchNorm(BatchStatistics):
    """Batch normalization by the two explicit functions above; everything else is as in ``BatchNorm``.

    Args:
        unbiased: whether ``running_var`` averages the batches' variances times m / (m - 1).
    """

    name = "bn_scratch"

    def __init__(self, channels: int, *, eps: float, momentum: float | None, unbiased: bool, affine: bool) -> None:
        super().__init__(channels, eps=eps, momentum=momentum, affine=affine)
        self.unbiased = unbiased

    def by_batch(self, x: Tensor, *, track: bool) -> Tensor:
        """Normalize by the statistics of ``x``; with ``track``, the running ones follow them."""
        y: Tensor
        y, mean, var, *_ = NormalizeByBatch.apply(self.wide(x), *self._gain_and_bias(), self.eps)
        if track:
            self.advance(mean, self.unbiased_var(var, x) if self.unbiased else var)
        return y.to(x.dtype)

    def by_running(self, x: Tensor) -> Tensor:
        """Normalize by the running statistics."""
        statistics = self.running_mean, self.running_var
        y: Tensor
        y, *_ = NormalizeByRunning.apply(self.wide(x), *self._gain_and_bias(), *statistics, self.eps)
        return y.to(x.dtype)

    def _gain_and_bias(self) -> tuple[Tensor, Tensor]:
        if self.gain is None or self.bias is None:
            return torch.ones_like(self.running_mean), torch.zeros_like(self.running_mean)
        return self.gain, self.bias


def newest_weight(momentum: float | None, convention: Literal["torch", "tf"]) -> float | None:
    """The weight of the newest batch: torch calls this weight momentum, TensorFlow calls 1 minus it momentum.

    Raises:
        ValueError: the weight is 0, and the running statistics would never move.
    """
    if momentum is None:
        return None
    weight = momentum if convention == "torch" else 1 - momentum
    if weight == 0:
        allowed = "above 0" if convention == "torch" else "below 1"
        raise ValueError(
            f"norm.momentum={momentum}: the running statistics would never move; "
            f"allowed is {allowed} with norm.convention={convention}"
        )
    return weight


@NORMS.register("bn_scratch", Capabilities(batch_of_one=("refused", "differ"), restorable=True, as_bn=True))
def bn_scratch(
    channels: int,
    *,
    eps: NonNegative,
    momentum: Annotated[float, Range(least=0, most=1)] | None,
    convention: Literal["torch", "tf"],
    variance: Literal["unbiased", "biased"],
    affine: bool,
) -> Norm:
    """Batch normalization from scratch, over B, H, W for each channel: y = gain * (x - mean) / sqrt(var + eps) + bias.

    The same function as ``bn``, with the forward and the backward pass written out. Training uses the statistics of the
    batch, evaluation the running ones. A 2-D input (B, C) has B values a channel.

    Ioffe & Szegedy 2015, algorithms 1 and 2 and the equations of section 3.

    Options:
        eps: may be 0; a constant channel is then 0/0 = nan.
        momentum: of the running statistics, in the given convention; null for the plain average over all batches.
        convention: ``torch``: r <- (1 - momentum) * r + momentum * batch; ``tf``: the weights swapped.
        variance: which variance the running statistics average. Torch and the paper average the unbiased one, Paddle,
            MXNet and D2L the biased one; the equation above always has the biased one.

    Raises:
        ValueError: a momentum that never moves the running statistics; (in use) one value per channel in training.
    """
    weight = newest_weight(momentum, convention)
    return ScratchBatchNorm(channels, eps=eps, momentum=weight, unbiased=variance == "unbiased", affine=affine)
