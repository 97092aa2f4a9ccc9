"""Loss and accuracy in evaluation mode, under three kinds of statistics.

Batch norms evaluate with *running* averages of their training batches, with *precise* statistics
(``bnexp.training.statistics``), or with those of each evaluated batch. Norms without batch statistics are not affected.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from bnexp.data import Split
from bnexp.models.layers import batch_norms, moving_norms
from bnexp.training.losses import accuracy, each_loss, right, wide
from bnexp.training.passes import Pass, places
from bnexp.training.population import Population
from bnexp.training.statistics import batch_statistics, precise_statistics

Measures = dict[str, list[float]]


def evaluate(population: Population, split: Split, batch_size: int) -> Measures:
    """Mean cross-entropy (nats) and ``accuracy`` (0 to 1) of every member on all of a split: {quantity: [M]}."""
    population.train(False)
    measures = population.kept(_Scores, split, batch_size)()
    population.train()
    return measures


class _Scores:
    """The sums of losses and hits of a population over a split."""

    def __init__(self, population: Population, split: Split, batch_size: int) -> None:
        self._population, self._images, members = population, len(split), len(population)
        self._loss_M = torch.zeros(members, dtype=torch.float64, device=split.y.device)
        self._hits_M = torch.zeros_like(self._loss_M)
        model = population.members[0]
        by_batch = any(layer.source == "batch" for layer in batch_norms(model))
        batches, recorder = places(split, batch_size, model), None if by_batch else population.recorder
        if recorder is not None:  # no norm looks at a batch as a whole, so that the last one can be filled up
            batches = [slice(start, start + batch_size) for start in range(0, len(split), batch_size)]
        self._pass = Pass(split, members, batches, self._add, recorder, padded=recorder is not None)

    @torch.no_grad()
    def __call__(self) -> Measures:
        self._loss_M.zero_()
        self._hits_M.zero_()
        self._pass()
        shares_M = accuracy(self._hits_M, self._loss_M, self._images)
        return {"loss": (self._loss_M / self._images).tolist(), "accuracy": shares_M.tolist()}  # waits for the device

    def _add(self, x_MB: Tensor, y_MB: Tensor, inside_B: Tensor | None) -> None:
        logits_MBK = self._population(x_MB)
        loss_MB, right_MB = each_loss(wide(logits_MBK), y_MB).double(), right(logits_MBK, y_MB)
        if inside_B is not None:
            loss_MB, right_MB = torch.where(inside_B, loss_MB, 0.0), right_MB & inside_B
        self._loss_M += loss_MB.sum(1)
        self._hits_M += right_MB.sum(1)


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
    with batch_statistics(*population.networks()):
        # Mixed, because in a split sorted by class each batch would hold images of one class only.
        kinds["batch"] = evaluate(population, split.mixed(len(split)), train_batch_size)
    return kinds
