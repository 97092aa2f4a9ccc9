"""Batch normalization: one mean and variance a channel, over the batch and all positions."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import handle_torch_function, has_torch_function

from bnexp.config.capabilities import Capabilities
from bnexp.config.checks import PositiveFloat, Range
from bnexp.norms.base import NORMS, Norm, is_watched, per_channel, require_spread, values_per_statistic

Momentum = Annotated[float, Range(above=0, most=1)] | None


def pooled_axes(x: Tensor) -> tuple[int, ...]:
    """The axes over which a channel of (B, C, ...) is pooled: all but the channels."""
    return (0, *range(2, x.ndim))


class BatchStatistics(Norm, ABC):
    """Base of the norms that share statistics across the batch and need stored ones to evaluate single samples.

    Training normalizes by the batch at hand and moves the running statistics. Evaluation normalizes by the running
    statistics; with ``source = "batch"`` it normalizes by the batch at hand, mixed with the running statistics where
    there is a ``prior``, and changes no buffer. Subclasses define ``by_batch`` and ``by_running``, and, if they do more
    than center and scale by given statistics, ``by_moments``.

    Args:
        eps: added to the variance, inside the root.
        momentum: weight of the newest batch in the running statistics (torch's convention); None weighs all batches
            seen so far equally.
        affine: whether there is a bias and, with ``gain``, a gain.

    Attributes:
        name: the norm's name in configs, for messages.
        used: whether evaluation uses the running mean, the running variance, or both.
        least_values: how many values a channel of a batch must have.
        averages_variances: whether the running variance is an average of the unbiased variances of batches.
        source: which statistics evaluation uses; the caller may set it.
        prior: how many samples the running statistics count as, next to those of the batch; 0 for none.
        own: the weight of a sample's own moments, next to the running statistics; 0 for none.
        frozen: the layer stays in evaluation mode.
        running_mean: [C], 0 at first.
        running_var: [C], 1 at first.
        batches_seen: how many batches the running statistics have taken in, an int64 scalar.
    """

    name: ClassVar[str]
    used: ClassVar[tuple[str, ...]] = ("mean", "var")
    least_values: int = 2
    averages_variances: ClassVar[bool] = True
    source: Literal["running", "batch"] = "running"
    prior = 0
    own = 0.0
    frozen = False
    running_mean: Tensor
    running_var: Tensor
    batches_seen: Tensor

    def __init__(self, channels: int, *, eps: float, momentum: float | None, affine: bool, gain: bool = True) -> None:
        super().__init__(channels, affine=affine, gain=gain)
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
            return self.by_own(x) if self.own else self.by_running(x)
        if not self.training and self.prior:
            return self.by_mixture(x)
        self.require_values(x)
        return self.by_batch(x, track=self.training)

    def by_mixture(self, x: Tensor) -> Tensor:
        """Normalize by (N * running + B * batch) / (N + B), mean and (biased) variance alike, with N the ``prior``.

        Schneider et al. 2020. The statistics are constants to a gradient.
        """
        share, kept = len(x) / (self.prior + len(x)), (self.running_mean, self.running_var)
        var, mean = torch.var_mean(self.wide(x).detach(), pooled_axes(x), correction=0)
        try:
            self.running_mean, self.running_var = kept[0].lerp(mean, share), kept[1].lerp(var, share)
            return self.by_running(x)
        finally:
            self.running_mean, self.running_var = kept

    def by_own(self, x: Tensor) -> Tensor:
        """Normalize each sample by (1 - a) * running + a * own, E[x] and E[x^2] alike, with a the weight ``own``.

        Summers & Dinneen 2020, and the authors' code; their own moments of a vector are its values.
        """
        var_BC, mean_BC = torch.var_mean(self.wide(x).reshape(*x.shape[:2], -1), 2, correction=0)
        apart_BC, kept = mean_BC - self.running_mean, 1 - self.own
        mean_BC = self.running_mean + self.own * apart_BC
        var_BC = kept * self.running_var + self.own * (var_BC + kept * apart_BC.square())
        return self.by_moments(x, mean_BC, var_BC)

    def by_moments(self, x: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        """Normalize by the given statistics in place of the running ones, [C] each or, sample by sample, [B, C]."""
        return self.scaled(self.standardized(self.wide(x), mean, var)).to(x.dtype)

    def require_values(self, x: Tensor) -> None:
        """Refuse a batch of fewer than ``least_values`` values a channel."""
        values = values_per_statistic(x, *pooled_axes(x))
        advice = "use a larger batch_size, and drop_last=true if it is the last batch that is too small"
        require_spread(x, values, norm=self.name, per="channel", advice=advice)

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
        """Set gain = sqrt(var + eps), bias = mean of the batch (Ioffe & Szegedy 2015, sec. 3): y = x on this batch."""
        var, mean = torch.var_mean(x, pooled_axes(x), correction=0)
        if self.gain is None or self.bias is None:
            raise ValueError("affine=identity: needs a gain and a bias; use norm.affine=true")
        self.gain.copy_((var + self.eps).sqrt())
        self.bias.copy_(mean)

    @torch.no_grad()
    def advance(self, mean: Tensor, var: Tensor, **more: Tensor) -> None:
        """Move the running statistics, in place, towards the statistics of a new batch: r <- r + rate * (batch - r).

        Args:
            mean: [C], of the batch.
            var: [C], of the batch.
            more: name -> the batch's value for a further buffer ``running_<name>``.
        """
        self.batches_seen.add_(1)
        # 1 / batches_seen stays a tensor: reading the number would wait for the device.
        rate = self.batches_seen.to(mean.dtype).reciprocal() if self.momentum is None else self.momentum
        for name, batch in {"mean": mean, "var": var, **more}.items():
            running = self.get_buffer(f"running_{name}")
            running.add_(rate * (batch - running))

    def products(self, deviations: Tensor) -> Tensor:
        """Average products of deviations (B, C, ...) over batch and positions, as ``set_running`` takes them.

        Here these are the squares, [C].
        """
        return deviations.square().mean(pooled_axes(deviations))

    def set_running(self, mean: Tensor, products: Tensor) -> None:
        """Set the running statistics to the mean of the layer's input, [C], and the ``products`` of its deviations."""
        self.running_mean.copy_(mean)
        self.running_var.copy_(products)

    def standardized(self, wide: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        """(x - mean) / sqrt(var + eps) by the given statistics, [C] or [B, C] each."""
        return (wide - per_channel(mean, wide)) * per_channel((var + self.eps).rsqrt(), wide)

    def unbiased_var(self, var: Tensor, x: Tensor) -> Tensor:
        """The unbiased variance of the channels of x, from the biased one."""
        m = values_per_statistic(x, *pooled_axes(x))
        return var * (m / (m - 1))

    def wide(self, x: Tensor) -> Tensor:
        """Convert x to the precision of the statistics if it has a lower one: sums of bfloat16 values lose digits."""
        return x.to(torch.promote_types(x.dtype, self.running_mean.dtype))


def batch_norm_relu(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    momentum: float,
    eps: float,
) -> Tensor:
    """``F.relu(F.batch_norm(...))`` by the statistics of x, in one function: a mode can have both in one kernel."""
    given = x, running_mean, running_var, weight, bias
    if has_torch_function(given) and not torch.compiler.is_compiling():
        y: Tensor = handle_torch_function(batch_norm_relu, given, *given, momentum, eps)
        return y
    return F.relu(F.batch_norm(*given, True, momentum, eps))


class BatchNorm(BatchStatistics):
    """y = gain * (x - mean_c) / sqrt(var_c + eps) + bias, by torch's fused ``F.batch_norm``.

    The statistics of a channel pool B values of (B, C), B*L of (B, C, L) and B*H*W of (B, C, H, W). The equation uses
    the biased variance, ``running_var`` averages the unbiased one.
    """

    name = "bn"

    def by_batch(self, x: Tensor, *, track: bool) -> Tensor:
        """Normalize by the statistics of ``x``; with ``track``, the running ones follow them."""
        if not track:
            return self._batch_norm(x, None, None)
        if self.momentum is not None:
            self.batches_seen.add_(1)
            return self._batch_norm(x, self.running_mean, self.running_var, momentum=self.momentum)
        y, mean, var = self.standardize(x, self.gain, self.bias)
        self.advance(mean, var)
        return y

    def activated(self, x: Tensor, activation: nn.Module) -> Tensor:
        """``activation(self(x))``; with a ReLU, in training, by one function, unless somebody looks at the modules."""
        plain = self.training and type(self) is BatchNorm and type(activation) is nn.ReLU
        if self.momentum is None or not plain or is_watched(self) or is_watched(activation):
            return super().activated(x, activation)
        self.require_values(x)
        self.batches_seen.add_(1)
        given = x, self.running_mean, self.running_var, self.gain, self.bias
        return batch_norm_relu(*given, self.momentum, self.eps)

    def by_running(self, x: Tensor) -> Tensor:
        """Normalize by the running statistics."""
        return self._batch_norm(x, self.running_mean, self.running_var, training=False)

    def standardize(
        self, x: Tensor, gain: Tensor | None = None, bias: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Normalize by the statistics of ``x``; returns the output, and the mean and unbiased variance of x, [C]."""
        # With momentum 1 the fused kernel leaves the batch's own statistics in the buffers that it is given.
        mean, var = (self.running_mean.new_zeros(x.shape[1]) for _ in range(2))
        y = F.batch_norm(x, mean, var, gain, bias, training=True, momentum=1.0, eps=self.eps)
        return y, mean, var

    def _batch_norm(
        self, x: Tensor, mean: Tensor | None, var: Tensor | None, *, training: bool = True, momentum: float = 0.0
    ) -> Tensor:
        return F.batch_norm(x, mean, var, self.gain, self.bias, training=training, momentum=momentum, eps=self.eps)


@NORMS.register("bn", Capabilities(batch_of_one=("refused", "differ"), restorable=True, as_bn=True))
def bn(channels: int, *, eps: PositiveFloat, momentum: Momentum, affine: bool) -> Norm:
    """Batch normalization, over B, H, W for each channel: y = gain * (x - mean) / sqrt(var + eps) + bias.

    Training uses the statistics of the batch. Evaluation uses the running ones, r <- (1 - momentum) * r + momentum *
    batch, which average the unbiased variance. A 2-D input (B, C) has B values a channel.

    Ioffe & Szegedy 2015, algorithms 1 and 2; Wu & He 2018, eq. 3.

    Options:
        momentum: weight of the newest batch, torch's convention (TensorFlow's 0.9 is 0.1 here); null for the plain
            average over all batches.

    Raises:
        ValueError: (in use) one value per channel in training, as a batch of 1 on (B, C) or on 1x1 maps gives.
    """
    return BatchNorm(channels, eps=eps, momentum=momentum, affine=affine)
