"""Additional running averages of batch statistics, kept during one training without changing it.

Every layer with batch statistics gets buffers for them. As buffers they are stacked, saved and loaded like all other
state. With the decay d (TensorFlow's momentum: the weight of the old value) and the batch's statistics b::
    z <- d * z + (1 - d) * b                from z = 0
    running    r = z + d^t * r_0            what ``bn`` would hold
    corrected  r = z / (1 - d^t)            without the start (Kingma & Ba 2015, sec. 3)

r_0 are the running statistics at the start of training: 0 for means and 1 for variances, or the copied statistics with
``init_from``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from bnexp.models.layers import batch_norms, keeps_variances
from bnexp.norms import BatchStatistics
from bnexp.norms.batch import pooled_axes
from bnexp.training.population import Population


class Averages(nn.Module):
    """The averages of one layer; a submodule of it.

    E decays, C channels.

    Attributes:
        decay: [E, 1], the decays d.
        mean: [E, C], z of the batches' means.
        var: [E, C], z of their unbiased variances.
        first_mean: [C], r_0 of the means.
        first_var: [C], r_0 of the variances.
        batches: t, the number of batches, an int64 scalar.
    """

    decay: Tensor
    mean: Tensor
    var: Tensor
    first_mean: Tensor
    first_var: Tensor
    batches: Tensor

    def __init__(self, decays: Sequence[float], mean: Tensor, var: Tensor) -> None:
        super().__init__()
        self.register_buffer("decay", mean.new_tensor(decays).unsqueeze(1))
        self.register_buffer("mean", mean.new_zeros(len(decays), len(mean)))
        self.register_buffer("var", mean.new_zeros(len(decays), len(mean)))
        self.register_buffer("first_mean", mean.clone())
        self.register_buffer("first_var", var.clone())
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64, device=mean.device))

    @torch.no_grad()
    def forward(self, x: Tensor) -> None:
        """Update the averages with a batch, (B, C, ...)."""
        var, mean = torch.var_mean(x.to(self.mean.dtype), pooled_axes(x))
        self.mean.mul_(self.decay).add_((1 - self.decay) * mean)
        self.var.mul_(self.decay).add_((1 - self.decay) * var)
        self.batches.add_(1)

    def statistics(self, index: int, *, corrected: bool) -> tuple[Tensor, Tensor]:
        """The mean and the variance, [C], under the decay number ``index``."""
        start = self.decay[index].double() ** self.batches  # the weight of r_0
        mean, var = self.mean[index], self.var[index]
        if corrected:
            return mean / (1 - start), var / (1 - start)
        return mean + start * self.first_mean, var + start * self.first_var


def attach(model: nn.Module, decays: Sequence[float]) -> None:
    """Make every layer with batch statistics average them over its training batches, once with each decay.

    The statistics are a channel's mean and unbiased variance over the whole batch, as in torch's batch norm.

    Raises:
        ValueError: a norm evaluates with more than means and variances, averages something else, or trains with fixed
            ones.
    """
    for layer in batch_norms(model) if decays else ():
        if layer.frozen:
            raise ValueError(f"ema={decays}: norm_state=frozen takes in no statistics of batches; use ema=[]")
        if not keeps_variances(layer):
            raise ValueError(f"ema={decays}: norm={layer.name} keeps covariances, which are not averaged; use ema=[]")
        if not layer.averages_variances:
            raise ValueError(f"ema={decays}: norm={layer.name} averages E[x^2], and no variances; use ema=[]")
        layer.add_module("averages", Averages(decays, layer.running_mean, layer.running_var))
        layer.register_forward_pre_hook(_take_in)


def _take_in(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    if layer.training:
        layer.get_submodule("averages")(inputs[0])


@contextmanager
def average_as_running(population: Population, index: int, *, corrected: bool) -> Iterator[None]:
    """Replace the running statistics by the average of decay number ``index`` inside the with block."""
    layers = [layer for member in population.members for layer in batch_norms(member)]
    kept = [(layer.running_mean.clone(), layer.running_var.clone()) for layer in layers]
    for layer in layers:
        averages = layer.get_submodule("averages")
        assert isinstance(averages, Averages)
        _write(layer, *averages.statistics(index, corrected=corrected))
    try:
        yield
    finally:
        for layer, statistics in zip(layers, kept, strict=True):
            _write(layer, *statistics)


def _write(layer: BatchStatistics, mean: Tensor, var: Tensor) -> None:
    layer.running_mean.copy_(mean)
    layer.running_var.copy_(var)
