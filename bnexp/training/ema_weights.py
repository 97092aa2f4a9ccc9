"""Evaluation under the averaged weights that ``Optimizer.average`` keeps.

Running statistics belong to the trained weights. Under averaged weights they are replaced by the population statistics
of training images (``precise_statistics``), as by ``torch.optim.swa_utils.update_bn`` (Izmailov et al. 2018, sec. 3.2).
Norms without batch statistics, and frozen ones, need none.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from torch import Tensor

from bnexp.data import Split
from bnexp.models.layers import moving_norms
from bnexp.training.population import Population
from bnexp.training.statistics import precise_statistics


@contextmanager
def averaged(population: Population, average_MP: Tensor, train: Split, batch_size: int) -> Iterator[None]:
    """Replace the weights by their averages, and running statistics by the fitting ones, inside the with block.

    Args:
        population: the members.
        average_MP: their averaged weights.
        train: training images for the statistics.
        batch_size: images per batch in the pass for these statistics, as in training.
    """
    trained_MP = population.theta_MP.clone()
    population.theta_MP.copy_(average_MP)
    moves = bool(moving_norms(population.members[0]))
    try:
        with precise_statistics(population, train, batch_size) if moves else nullcontext():
            yield
    finally:
        population.theta_MP.copy_(trained_MP)
