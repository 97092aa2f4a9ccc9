"""The statistics that batch norms evaluate with: of each batch, or of the training data under the present weights.

*Precise* statistics are the moments of the training data under the present weights (Wu & Johnson 2021, sec. 3), which
running averages lag behind at a high learning rate.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bnexp.data import Split
from bnexp.models.layers import moving_norms
from bnexp.norms import BatchStatistics
from bnexp.norms.base import per_channel
from bnexp.norms.batch import pooled_axes
from bnexp.training.passes import Pass, places
from bnexp.training.population import Population

# Of the inputs that a layer has seen, in float64: the number of values a channel, their mean per channel, and the sum
# of products of deviations, which the layer chooses: squares for variances, products within groups for covariances.
Moments = tuple[Tensor, ...]


def batch_statistics(*models: nn.Module, prior: int = 0) -> AbstractContextManager[None]:
    """Evaluate with the statistics of each evaluated batch inside the with block, except in frozen layers.

    Args:
        models: their layers change.
        prior: see ``BatchStatistics``.
    """
    return _evaluating(models, source="batch", prior=prior)


def own_moments(*models: nn.Module, weight: float) -> AbstractContextManager[None]:
    """Evaluate each image by the running statistics and its own moments inside the with block, except in frozen layers.

    Args:
        models: their layers change.
        weight: of the image's own moments; see ``BatchStatistics.by_own``.
    """
    return _evaluating(models, own=weight)


@contextmanager
def _evaluating(models: Sequence[nn.Module], **how: Any) -> Iterator[None]:
    """Set attributes of moving norms inside the with block; then they have those of their class again."""
    layers = [layer for model in models for layer in moving_norms(model)]
    for layer in layers:
        for name, value in how.items():
            setattr(layer, name, value)
    try:
        yield
    finally:
        for layer in layers:
            for name in how:
                setattr(layer, name, getattr(type(layer), name))


@contextmanager
def precise_statistics(population: Population, train: Split, batch_size: int) -> Iterator[None]:
    """Evaluate with the population statistics of ``train`` under the present weights, inside the with block.

    This follows fvcore's precise_bn: one pass; all layers get inputs as in training (normalized by batch statistics of
    ``batch_size`` images); dropout off; variance E[x^2] - E[x]^2 over all positions, not the mean of the batches'
    variances. In this pass ``batch_renorm`` normalizes without its correction, and ``noisy_bn`` without its noise.
    Frozen layers do not change. The running statistics are restored afterwards. Every image of ``train`` counts the
    same, also in a last batch that is not full.
    """
    saved = {name: buffer.clone() for name, buffer in population.buffers.items()}
    with population.evaluating():
        found = population.kept(_Precise, train, batch_size)()
        for row, member in enumerate(population.members):
            _write(member, {name: tuple(each[row] for each in moments) for name, moments in found.items()})
    try:
        yield
    finally:
        for name, buffer in population.buffers.items():
            buffer.copy_(saved[name])


@torch.no_grad()
def write_precise(model: nn.Module, train: Split, batch_size: int) -> None:
    """Set the running statistics of a model in evaluation mode to the precise ones; see ``precise_statistics``.

    Args:
        model: one member.
        train: its training images.
        batch_size: images per forward pass.
    """
    moments = _nothing(model, train.y.device)
    with batch_statistics(model):
        for at in places(train, batch_size, model):
            moments = _taken_in(model, model, train.batch(at)[0][0], moments)
    _write(model, moments)


class _Precise:
    """The moments of all inputs of all layers of a population, {layer: [M, ...] each}."""

    def __init__(self, population: Population, train: Split, batch_size: int) -> None:
        self._population, model = population, population.members[0]
        nothing, members = _nothing(model, train.y.device), len(population)
        self._moments = {
            name: tuple(each.expand(members, *each.shape).clone() for each in moments)
            for name, moments in nothing.items()
        }
        batches = places(train, batch_size, model)
        self._pass = Pass(train, members, batches, self._take_in, population.recording_of_passes)

    @torch.no_grad()
    def __call__(self) -> dict[str, Moments]:
        for moments in self._moments.values():
            torch._foreach_zero_(moments)
        with batch_statistics(*self._population.networks()):
            self._pass()
        return self._moments

    def _take_in(self, x_MB: Tensor, y_MB: Tensor, inside_B: Tensor | None) -> None:
        taken = self._population.collect(_taken_in, x_MB, self._moments)
        for name, moments in self._moments.items():
            torch._foreach_copy_(moments, taken[name])


def _nothing(model: nn.Module, device: torch.device) -> dict[str, Moments]:
    """The moments of no input, by the name of the layer."""
    found: dict[str, Moments] = {}
    for name, layer in model.named_modules():
        if isinstance(layer, BatchStatistics) and not layer.frozen:
            channels = torch.zeros(len(layer.running_mean), dtype=torch.float64, device=device)
            found[name] = channels.new_zeros(()), channels, layer.products(channels[None])
    return found


def _taken_in(
    model: nn.Module, forward: Callable[[Tensor], Tensor], x_B: Tensor, moments: dict[str, Moments]
) -> dict[str, Moments]:
    """The moments with the inputs of one more batch of a model whose batch norms normalize by the batch."""
    taken = dict(moments)

    def look(name: str, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        taken[name] = _merged(layer, inputs[0], *taken[name])

    with ExitStack() as undo:  # also where a capture of this fails: hooks that stay would hold every later step's graph
        for name in moments:
            undo.callback(model.get_submodule(name).register_forward_pre_hook(partial(look, name)).remove)
        forward(x_B)
    return taken


def _merged(layer: nn.Module, x: Tensor, before: Tensor, mean: Tensor, m2: Tensor) -> Moments:
    """Moments and those of a batch together, exactly (Chan et al. 1979, eq. 2.1)."""
    assert isinstance(layer, BatchStatistics)
    x = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    count = x.numel() // x.shape[1]
    own = x.mean(pooled_axes(x))
    within = layer.products(x - per_channel(own, x)).double()
    total, delta = before + count, own.double() - mean
    m2 = m2 + within * count + layer.products(delta[None]) * (before * count / total)
    return total, mean + delta * (count / total), m2


def _write(model: nn.Module, found: dict[str, Moments]) -> None:
    """Overwrite the running statistics of a model's layers."""
    for name, (count, mean, m2) in found.items():
        layer = model.get_submodule(name)
        assert isinstance(layer, BatchStatistics)
        layer.set_running(mean, m2 / count)
