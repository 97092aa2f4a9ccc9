"""Adaptation at test time by the entropy of predictions (Tent, Wang et al. 2021)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from bnexp.models.layers import norm_parameters
from bnexp.training.evaluation import Forward
from bnexp.training.losses import wide
from bnexp.training.population import Population

# Of Adam: the rate for CIFAR-10-C in the paper's own code (cfgs/tent.yaml); other numbers as in torch.
LEARNING_RATE = 1e-3


@contextmanager
def adapting(population: Population) -> Iterator[Forward]:
    """Let gains and biases of norms learn from the batches that are evaluated inside the with block.

    Members answer one after another. After a batch, one step of Adam lowers the mean entropy of its predictions,
    H = -sum_k p_k log p_k (nats); so a batch is answered by what was learnt from those before it (as in the
    paper). All parameters are put back at the end. The caller sets the statistics; the paper's are those of batches.

    Yields:
        Inputs (M, B, ...) -> logits [M, B, K]; then the members learn.
    """
    kept = population.theta_MP.clone(), population.gradient_MP.clone()
    names = norm_parameters(population.members[0])
    learnt = [[member.get_parameter(name) for name in names] for member in population.members]
    optimizers = [torch.optim.Adam(own, lr=LEARNING_RATE) for own in learnt]

    def forward(x_MB: Tensor) -> Tensor:
        rows = zip(population.members, optimizers, learnt, x_MB, strict=True)
        return torch.stack([_answer(member, optimizer, own, x_B) for member, optimizer, own, x_B in rows])

    try:
        yield forward
    finally:
        population.theta_MP.copy_(kept[0])
        population.gradient_MP.copy_(kept[1])


def _answer(member: nn.Module, optimizer: torch.optim.Optimizer, own: list[nn.Parameter], x_B: Tensor) -> Tensor:
    """The member's logits; then its gains and biases take a step."""
    with torch.enable_grad():
        logits_BK: Tensor = member(x_B)
        log_BK = wide(logits_BK).log_softmax(1)
        entropy = -(log_BK.exp() * log_BK).sum(1).mean()
        gradients = torch.autograd.grad(entropy, own, materialize_grads=True)
    for parameter, gradient in zip(own, gradients, strict=True):
        assert parameter.grad is not None  # a view of the population's matrix
        parameter.grad.copy_(gradient)
    optimizer.step()
    return logits_BK.detach()
