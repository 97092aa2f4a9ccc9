"""Which parameters are trained; all others keep their initial or loaded values, bit for bit."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bnexp.models.layers import head_parameters
from bnexp.randomness import generator
from bnexp.training.population import Population


def frozen_MP(kind: str, population: Population, norms: Sequence[str], seeds: Sequence[int]) -> Tensor | None:
    """Marks the parameters that are not trained, bool [M, P]; None if all are trained.

    Args:
        kind: ``all``; ``norms``, the gains and biases of norms only (Frankle, Schwab & Morcos 2021, sec. 3); ``head``,
            the last layer only; ``norms_and_head``; or ``random_as_norms``, as many numbers as norms have, chosen at
            random among all parameters except those of norms and head: the control of Frankle et al., sec. 4, who
            choose as many per channel.
        population: the members that own the parameters.
        norms: names of the gains and biases of norms.
        seeds: one per member; a member's choice depends on its seed alone.

    Raises:
        ValueError: the model has no parameters of this kind, or too few to choose from.
    """
    if kind == "all":
        return None
    head = head_parameters(population.members[0])
    if kind != "head" and not norms:
        raise ValueError(f"trainable={kind}: the norms have no parameter (is norm.affine=false?)")
    if kind == "random_as_norms":
        count = int(population.mask_P(norms).sum())
        others = [name for name, _ in population.parameters() if name not in {*norms, *head}]
        return torch.stack([~_chosen(population.mask_P(others), count, seed) for seed in seeds])
    trained = {"norms": norms, "head": head, "norms_and_head": [*norms, *head]}[kind]
    return (population.mask_P(trained) == 0).expand_as(population.theta_MP)


def _chosen(candidates_P: Tensor, count: int, seed: int) -> Tensor:
    """Choose ``count`` of the candidates, bool [P]; the choice depends on their number and the seed alone."""
    places = candidates_P.nonzero().flatten()
    if len(places) < count:
        raise ValueError(f"trainable=random_as_norms: needs {count} numbers, and the model has only {len(places)}")
    chosen_P = torch.zeros_like(candidates_P, dtype=torch.bool)
    chosen_P[places[torch.randperm(len(places), generator=generator(seed, "trainable"))[:count].to(places.device)]] = (
        True
    )
    return chosen_P
