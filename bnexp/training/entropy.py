"""Adaptation at test time by the entropy of predictions (Tent, Wang et al. 2021)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from bnexp.models.layers import norm_parameters
from bnexp.training.evaluation import Forward
from bnexp.training.losses import wide
from bnexp.training.population import Population

# Of Adam: the rate for CIFAR-10-C in the paper's own code (cfgs/tent.yaml); other numbers as in torch.
LEARNING_RATE = 1e-3
_BETA1, _BETA2, _EPS = 0.9, 0.999, 1e-8


class _Adam:
    """Adam (Kingma & Ba 2015, alg. 1) on a few parameters; torch's own would first import its compiler, for seconds."""

    def __init__(self, learnt: Sequence[nn.Parameter]) -> None:
        self._learnt, self._steps = learnt, 0
        self._moments = [(torch.zeros_like(parameter), torch.zeros_like(parameter)) for parameter in learnt]

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor]) -> None:
        """One step down these gradients."""
        self._steps += 1
        share1, share2 = (1 - beta**self._steps for beta in (_BETA1, _BETA2))
        for parameter, gradient, (mean, square) in zip(self._learnt, gradients, self._moments, strict=True):
            mean.lerp_(gradient, 1 - _BETA1)
            square.mul_(_BETA2).addcmul_(gradient, gradient, value=1 - _BETA2)
            parameter.addcdiv_(mean, (square.sqrt() / share2**0.5).add_(_EPS), value=-LEARNING_RATE / share1)


@contextmanager
def adapting(population: Population) -> Iterator[Forward]:
    """Let gains and biases of norms learn from the batches that are evaluated inside the with block.

    Members answer one after another. After a batch, one step of Adam lowers the mean entropy of its predictions,
    H = -sum_k p_k log p_k (nats); so a batch is answered by what was learnt from those before it (as in the
    paper). All parameters are put back at the end. The caller sets the statistics; the paper's are those of batches.

    Yields:
        Inputs (M, B, ...) -> logits [M, B, K]; then the members learn.
    """
    kept = population.theta_MP.clone()
    names = norm_parameters(population.members[0])
    learnt = [[member.get_parameter(name) for name in names] for member in population.members]
    optimizers = [_Adam(own) for own in learnt]

    def forward(x_MB: Tensor) -> Tensor:
        rows = zip(population.members, optimizers, learnt, x_MB, strict=True)
        return torch.stack([_answer(member, optimizer, own, x_B) for member, optimizer, own, x_B in rows])

    try:
        yield forward
    finally:
        population.theta_MP.copy_(kept)


def _answer(member: nn.Module, optimizer: _Adam, own: list[nn.Parameter], x_B: Tensor) -> Tensor:
    """The member's logits; then its gains and biases take a step."""
    with torch.enable_grad():
        logits_BK: Tensor = member(x_B)
        log_BK = wide(logits_BK).log_softmax(1)
        entropy = -(log_BK.exp() * log_BK).sum(1).mean()
        gradients = torch.autograd.grad(entropy, own, materialize_grads=True)
    optimizer.step(gradients)
    return logits_BK.detach()
