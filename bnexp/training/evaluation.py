"""Loss and accuracy in evaluation mode, under three kinds of statistics.

Batch norms evaluate with *running* averages of their training batches. At a high learning rate these lag behind the
weights. *Precise* statistics are the moments of the training data under the present weights (Wu & Johnson 2021,
sec. 3). *Batch* statistics are the moments of each evaluated batch. Norms without batch statistics are not affected.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn

from bnexp.data import Split
from bnexp.models.layers import batch_norms, moving_norms
from bnexp.norms import BatchStatistics
from bnexp.norms.base import per_channel
from bnexp.norms.batch import pooled_axes
from bnexp.training.losses import accuracy, each_loss, hits, wide
from bnexp.training.population import Population

Measures = dict[str, list[float]]


@torch.no_grad()
def evaluate(population: Population, split: Split, batch_size: int) -> Measures:
    """Mean cross-entropy (nats) and ``accuracy`` (0 to 1) of every member on all of a split: {quantity: [M]}."""
    population.train(False)
    loss_M = torch.zeros(len(population), dtype=torch.float64, device=split.y.device)
    hits_M = torch.zeros_like(loss_M)
    for at in _places(split, batch_size, population.members[0]):
        x_MB, y_MB = split.batch(at, len(population))
        logits_MBK = population(x_MB)
        loss_M += each_loss(wide(logits_MBK), y_MB).double().sum(1)
        hits_M += hits(logits_MBK, y_MB)
    population.train()
    shares_M = accuracy(hits_M, loss_M, len(split))
    return {"loss": (loss_M / len(split)).tolist(), "accuracy": shares_M.tolist()}  # waits for the device


def _places(split: Split, batch_size: int, model: nn.Module) -> list[slice]:
    """The places of all batches in order; a rest too small for the statistics of the norms joins the last batch."""
    least = max((layer.least_values for layer in batch_norms(model)), default=2)
    full, rest = divmod(len(split), batch_size)
    sizes = [batch_size] * full + [rest] * (rest > 0)
    if 0 < rest < least and full:
        sizes[-2:] = [batch_size + rest]
    ends = list(itertools.accumulate(sizes))
    return [slice(end - size, end) for end, size in zip(ends, sizes, strict=True)]


class _Moments:
    """Mean per channel and products of deviations over all positions seen, merged exactly (Chan et al. 1979, eq. 2.1).

    The layer chooses the products: squares for variances, products within whole groups for covariances.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean: Tensor | float = 0.0
        self.m2: Tensor | float = 0.0

    def add(self, layer: BatchStatistics, inputs: tuple[Tensor, ...]) -> None:
        """Add one batch; used as a forward pre-hook."""
        x = inputs[0].float() if inputs[0].dtype in (torch.float16, torch.bfloat16) else inputs[0]
        count = x.numel() // x.shape[1]
        mean = x.mean(pooled_axes(x))
        within = layer.products(x - per_channel(mean, x)).double()
        total, delta = self.count + count, mean.double() - self.mean
        self.m2 = self.m2 + within * count + layer.products(delta[None]) * (self.count * count / total)
        self.mean = self.mean + delta * (count / total)
        self.count = total

    def write(self, layer: BatchStatistics) -> None:
        """Overwrite the layer's running statistics with these moments."""
        assert isinstance(self.mean, Tensor)
        assert isinstance(self.m2, Tensor)
        layer.set_running(self.mean, self.m2 / self.count)


@contextmanager
def batch_statistics(model: nn.Module) -> Iterator[None]:
    """Evaluate with the statistics of each evaluated batch inside the with block, except in frozen layers."""
    for layer in moving_norms(model):
        layer.source = "batch"
    try:
        yield
    finally:
        for layer in moving_norms(model):
            layer.source = "running"


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
    population.train(False)
    for row, member in enumerate(population.members):
        write_precise(member, train.of(row), batch_size)
    population.train()
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
    moments = {layer: _Moments() for layer in moving_norms(model)}
    hooks = [layer.register_forward_pre_hook(moments[layer].add) for layer in moments]
    with batch_statistics(model):
        for at in _places(train, batch_size, model):
            model(train.batch(at)[0][0])
    for hook in hooks:
        hook.remove()
    for layer, moment in moments.items():
        moment.write(layer)


def evaluate_all(
    population: Population, splits: Mapping[str, Split], train: Split, *, batch_size: int, train_batch_size: int
) -> Measures:
    """All measures of an evaluation during training: {split/quantity: [M]}, and again with the suffix ``_precise``.

    Norms without batch statistics get the same numbers twice, so that all runs have the same curves.

    Args:
        population: the members to evaluate.
        splits: tag -> images.
        train: training images for the precise statistics.
        batch_size: images per forward pass.
        train_batch_size: images per batch in the pass for precise statistics, as in training.
    """
    measured = evaluate_splits(population, splits, batch_size, "")
    if not moving_norms(population.members[0]):
        return measured | {f"{tag}_precise": values for tag, values in measured.items()}
    with precise_statistics(population, train, train_batch_size):
        return measured | evaluate_splits(population, splits, batch_size, "_precise")


def evaluate_splits(population: Population, splits: Mapping[str, Split], batch_size: int, suffix: str) -> Measures:
    """``evaluate`` on several splits: {split/quantity + suffix: [M]}."""
    return {
        f"{name}/{quantity}{suffix}": values
        for name, split in splits.items()
        for quantity, values in evaluate(population, split, batch_size).items()
    }


def evaluate_kinds(
    population: Population, split: Split, train: Split, *, batch_size: int, train_batch_size: int
) -> dict[str, Measures]:
    """Evaluate one split with running, precise and batch statistics: {kind: {quantity: [M]}}; see ``evaluate_all``."""
    kinds = {"running": evaluate(population, split, batch_size)}
    if not batch_norms(population.members[0]):
        return {"-": kinds["running"]}
    with precise_statistics(population, train, train_batch_size):
        kinds["precise"] = evaluate(population, split, batch_size)
    with ExitStack() as stack:
        for network in population.networks():
            stack.enter_context(batch_statistics(network))
        # Mixed, because in a split sorted by class each batch would hold images of one class only.
        kinds["batch"] = evaluate(population, split.mixed(len(split)), train_batch_size)
    return kinds
